"""All routes of management, for the application that serves them."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Router
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.types import ControllerRouterHandler

from iotplatform.domain.principal import Principal
from iotplatform.roles.management.access import check_declared, guard_by, principal_of
from iotplatform.roles.management.alarm_actions import (
    acknowledge_alarm,
    acknowledge_alarms,
    assign_alarm,
    clear_alarm,
    comment_alarm,
    snooze_alarm,
)
from iotplatform.roles.management.alarms import list_alarms, read_alarm, read_timeline
from iotplatform.roles.management.api_keys import create_api_key, list_api_keys, revoke_api_key
from iotplatform.roles.management.audit import list_audit, list_platform_audit
from iotplatform.roles.management.auditing import begin, finish_by
from iotplatform.roles.management.channels import (
    create_channel,
    delete_channel,
    list_channels,
    put_channel,
    read_channel,
    test_channel,
)
from iotplatform.roles.management.commands import create_command, list_commands, read_command
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.dead_letters import list_dead_letters, replay_dead_letters
from iotplatform.roles.management.deliveries import list_deliveries
from iotplatform.roles.management.device_import import import_devices
from iotplatform.roles.management.devices import (
    create_device,
    create_device_of,
    delete_device,
    list_devices,
    patch_device,
    put_device,
    read_device,
)
from iotplatform.roles.management.ledger import read_ledger
from iotplatform.roles.management.limits import put_device_limits, put_limits, read_device_limits, read_limits
from iotplatform.roles.management.live import follow_live
from iotplatform.roles.management.mappings import (
    create_mapping,
    delete_mapping,
    list_mapping_templates,
    list_mappings,
    put_mapping,
    read_mapping,
    try_mapping,
)
from iotplatform.roles.management.organization_users import (
    add_member,
    change_member,
    list_members,
    read_member,
    remove_member,
)
from iotplatform.roles.management.organizations import (
    create_organization,
    delete_organization,
    list_organizations,
    patch_organization,
    put_organization,
    read_organization,
)
from iotplatform.roles.management.pack_applications import (
    apply_pack,
    detach_pack,
    list_applications,
    read_application,
)
from iotplatform.roles.management.provisioning import (
    create_provisioning_key,
    list_provisioning_keys,
    provision_device,
    revoke_provisioning_key,
)
from iotplatform.roles.management.requests import MAX_BODY_BYTES, StrictRequest, look_at
from iotplatform.roles.management.retention import (
    put_device_retention,
    put_retention,
    read_device_retention,
    read_retention,
)
from iotplatform.roles.management.rule_backtests import backtest_rule, backtest_unsaved_rule
from iotplatform.roles.management.rule_explanations import explain_rule
from iotplatform.roles.management.rule_packs import (
    create_pack,
    delete_pack,
    list_pack_versions,
    list_packs,
    put_pack,
    read_pack,
)
from iotplatform.roles.management.rules import (
    create_rule,
    delete_rule,
    disable_rule,
    enable_rule,
    list_rule_versions,
    list_rules,
    put_rule,
    read_rule,
    read_rule_version,
)
from iotplatform.roles.management.series import list_series
from iotplatform.roles.management.sessions import change_password, log_in, log_out, read_me, refresh, set_up
from iotplatform.roles.management.signing_keys import delete_signing_key, list_signing_keys
from iotplatform.roles.management.telemetry import list_latest, list_readings
from iotplatform.roles.management.tokens import create_token, read_keys, renew_token, revoke_token
from iotplatform.roles.management.users import (
    change_user,
    create_user,
    delete_user,
    list_users,
    read_user,
)
from iotplatform.roles.management.windows import create_window, delete_window, list_windows, put_window, read_window

PEOPLE: Final[list[HTTPRouteHandler]] = [
    log_in,
    refresh,
    log_out,
    set_up,
    read_me,
    change_password,
    create_user,
    list_users,
    read_user,
    change_user,
    delete_user,
    list_members,
    add_member,
    read_member,
    change_member,
    remove_member,
]


def routes(context: ManagementContext) -> list[ControllerRouterHandler]:
    """They bring their own dependencies (`context`, `principal`), request class, guard and bound on bodies.

    Raises:
        TypeError: one of them does not declare who may call it.
    """

    async def provide_context() -> ManagementContext:
        return context

    async def provide_principal(request: Request[Any, Any, Any]) -> Principal:
        return principal_of(request)

    handlers: list[HTTPRouteHandler] = [
        create_organization,
        list_organizations,
        read_organization,
        put_organization,
        patch_organization,
        delete_organization,
        create_device,
        create_device_of,
        list_devices,
        read_device,
        put_device,
        patch_device,
        create_command,
        list_commands,
        read_command,
        delete_device,
        create_token,
        revoke_token,
        list_rules,
        create_rule,
        read_rule,
        put_rule,
        delete_rule,
        enable_rule,
        disable_rule,
        list_rule_versions,
        read_rule_version,
        backtest_rule,
        backtest_unsaved_rule,
        explain_rule,
        list_packs,
        create_pack,
        read_pack,
        put_pack,
        delete_pack,
        list_pack_versions,
        list_applications,
        read_application,
        apply_pack,
        detach_pack,
        list_channels,
        create_channel,
        read_channel,
        put_channel,
        delete_channel,
        test_channel,
        list_alarms,
        read_alarm,
        read_timeline,
        acknowledge_alarm,
        acknowledge_alarms,
        assign_alarm,
        clear_alarm,
        comment_alarm,
        snooze_alarm,
        list_deliveries,
        list_windows,
        create_window,
        read_window,
        put_window,
        delete_window,
        list_readings,
        follow_live,
        list_latest,
        import_devices,
        list_provisioning_keys,
        create_provisioning_key,
        revoke_provisioning_key,
        provision_device,
        list_series,
        list_mapping_templates,
        list_mappings,
        create_mapping,
        try_mapping,
        read_mapping,
        put_mapping,
        delete_mapping,
        read_ledger,
        list_dead_letters,
        replay_dead_letters,
        read_limits,
        put_limits,
        read_device_limits,
        put_device_limits,
        read_retention,
        put_retention,
        read_device_retention,
        put_device_retention,
        list_audit,
        list_platform_audit,
        *PEOPLE,
        create_api_key,
        list_api_keys,
        revoke_api_key,
        renew_token,
        list_signing_keys,
        delete_signing_key,
        read_keys,
    ]
    check_declared(handlers)
    entrance = context.entrance
    return [
        Router(
            path="/",
            route_handlers=handlers,
            guards=[
                guard_by(entrance.authenticator, context.directory, entrance.strangers, required=entrance.required)
            ],
            dependencies={"context": Provide(provide_context), "principal": Provide(provide_principal)},
            before_request=_prepare,
            after_request=finish_by(context.database),
            request_class=StrictRequest,
            request_max_body_size=MAX_BODY_BYTES,
        )
    ]


async def _prepare(request: Request[Any, Any, Any]) -> None:
    await look_at(request)
    await begin(request)
