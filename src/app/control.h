/* SPDX-License-Identifier: ISC */
#ifndef APP_CONTROL_H
#define APP_CONTROL_H

#include <ev.h>
#include <sys/types.h>

/* The control socket: whoever connects gets one text and the end. */
struct control_socket;

/* Makes the text, which is freed with free(); NULL if it can't. Called in the loop. */
typedef char *control_text(void *arg);

/*
 * Listens at path (mode 0660, owned by the given user) and makes its folder, owned likewise, if it
 * isn't there. A socket that a daemon left there when it died is replaced; one that is served is
 * not. Returns NULL with a one-line reason in why (size bytes).
 */
struct control_socket *control_open(struct ev_loop *loop, const char *path, uid_t uid, gid_t gid,
				    control_text *text, void *arg, char *why, unsigned size);

/* Also removes the socket's file where the process may. NULL is allowed. */
void control_close(struct control_socket *control);

/* Connects to a control socket. Returns the descriptor, or -1 with errno set. */
int control_connect(const char *path);

#endif
