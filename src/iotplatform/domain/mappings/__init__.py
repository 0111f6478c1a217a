"""What gateways publish below their own topic, mapped to devices and sensors by an organization's own rules."""
