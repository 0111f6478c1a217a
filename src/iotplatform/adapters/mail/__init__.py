"""Mail: what a notification channel sends, and the two ways there are: SMTP, and the log of the process."""
