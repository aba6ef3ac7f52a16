/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errors of configuration and management: GErrors with QMP's classes. */
#include "util/error.h"

/* Not G_DEFINE_QUARK(), whose unlocked variable is a race to checkers */
GQuark seekless_error_quark(void)
{
    static gsize quark;

    if (g_once_init_enter(&quark)) {
        g_once_init_leave(&quark, g_quark_from_static_string("seekless-error"));
    }
    return quark;
}

static const char *const class_names[] = {
    [ERROR_GENERIC] = "GenericError",
    [ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
    [ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
    [ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
    [ERROR_KVM_MISSING_CAP] = "KVMMissingCap",
};

const char *error_class_name(const GError *err)
{
    if (err->domain != SEEKLESS_ERROR) {
        return class_names[ERROR_GENERIC];
    }
    g_assert(err->code >= 0 && err->code < (int)G_N_ELEMENTS(class_names));
    return class_names[err->code];
}

static void G_GNUC_PRINTF(4, 0)
    error_setv(GError **errp, ErrorClass class, int os_errno, const char *fmt,
               va_list ap)
{
    g_autofree char *msg = NULL;

    if (!errp) {
        return;
    }
    msg = g_strdup_vprintf(fmt, ap);
    if (os_errno) {
        g_set_error(errp, SEEKLESS_ERROR, class, "%s: %s", msg,
                    g_strerror(os_errno));
    } else {
        g_set_error_literal(errp, SEEKLESS_ERROR, class, msg);
    }
}

void error_setg(GError **errp, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_setv(errp, ERROR_GENERIC, 0, fmt, ap);
    va_end(ap);
}

void error_setg_errno(GError **errp, int os_errno, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_setv(errp, ERROR_GENERIC, os_errno, fmt, ap);
    va_end(ap);
}

void error_set_class(GError **errp, ErrorClass class, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_setv(errp, class, 0, fmt, ap);
    va_end(ap);
}
