/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What fdset.c needs of named-fd.c */
#ifndef UTIL_FDSET_INT_H
#define UTIL_FDSET_INT_H

/* Close those that clients passed. */
void named_fd_close_passed(void);
/* Close those that the process was started with. */
void named_fd_close_inherited(void);

#endif
