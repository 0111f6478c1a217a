"""People with their sessions, and programs with their keys."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import FIRST_VERSION, NOW, Model, epoch_column

FALSE = text("false")


class UserRow(Model):
    """`email` in its normal form."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("email", name="users_email_key"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    password_hash: Mapped[str]
    platform_admin: Mapped[bool] = mapped_column(server_default=FALSE)
    disabled_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class UserRoleRow(Model):
    __tablename__ = "user_roles"
    __table_args__ = (
        CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="user_roles_role_check"),
        Index("user_roles_epoch", "epoch"),
    )

    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE", name="user_roles_user_id_fkey"), primary_key=True
    )
    epoch: Mapped[int] = epoch_column("user_roles", primary_key=True)
    role: Mapped[str]


class SessionRow(Model):
    """What began with a login: the family of its refresh tokens."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_user_id", "user_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE", name="sessions_user_id_fkey"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime]
    ended_at: Mapped[dt.datetime | None]


class RefreshTokenRow(Model):
    """`hash` is SHA-256 of the token; a used one is kept to recognise it when it comes again."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (Index("refresh_tokens_session_id", "session_id"),)

    hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.id", ondelete="CASCADE", name="refresh_tokens_session_id_fkey")
    )
    used_at: Mapped[dt.datetime | None]


class ApiKeyRow(Model):
    """Of an organization, or of the platform when `epoch` is null."""

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("secret_hash", name="api_keys_secret_hash_key"),
        Index("api_keys_epoch", "epoch"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("organizations.epoch", ondelete="CASCADE", name="api_keys_epoch_fkey")
    )
    name: Mapped[str]
    secret_hash: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_by: Mapped[str]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
