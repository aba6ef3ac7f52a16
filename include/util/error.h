/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Errors of configuration and management are GErrors. Those of the domain
 * SEEKLESS_ERROR carry QMP's error class as their code; a GError of any other
 * domain is shown by QMP as class GenericError. Requests to disks return
 * negative errno values instead and set no GError.
 */
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#include <glib.h>

#define SEEKLESS_ERROR (seekless_error_quark())
GQuark seekless_error_quark(void);

/* QMP's error classes (QapiErrorClass); the code of a SEEKLESS_ERROR */
typedef enum ErrorClass {
    ERROR_GENERIC,
    ERROR_COMMAND_NOT_FOUND,
    ERROR_DEVICE_NOT_ACTIVE,
    ERROR_DEVICE_NOT_FOUND,
    ERROR_KVM_MISSING_CAP,
} ErrorClass;

/* QMP's spelling of the class of @err, such as "GenericError" */
const char *error_class_name(const GError *err);

/* Set @errp (if not NULL) to a SEEKLESS_ERROR of class ERROR_GENERIC. */
void error_setg(GError **errp, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* The same, with ": " and the text of errno value @os_errno (> 0) behind. */
void error_setg_errno(GError **errp, int os_errno, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* The same, with a class. */
void error_set_class(GError **errp, ErrorClass class, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

#endif
