/* SPDX-License-Identifier: ISC */
#include "app/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

/*
 * How long accepting pauses when there's no descriptor left, in seconds: the listener would wake us
 * up at once again.
 */
#define PAUSE 1.

struct control_socket {
	struct ev_loop *loop;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	control_text *text;
	void *arg;
	ev_io io;
	ev_timer pause;
};

static int make_address(struct sockaddr_un *a, const char *path)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a->sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(a->sun_path, path);
	return 0;
}

int control_connect(const char *path)
{
	struct sockaddr_un a;
	int fd, error;

	if (make_address(&a, path) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* Sends all at once: a new socket has room for much more than a text of ours. */
static void serve(struct control_socket *control, int fd)
{
	char *text = control->text(control->arg);

	/* Should it fail, the client is gone, or sees the end without a whole text. */
	if (text)
		send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
	free(text);
	close(fd);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct control_socket *control = io->data;
	int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		serve(control, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		ev_io_stop(loop, io);
		ev_timer_set(&control->pause, PAUSE, 0.);
		ev_timer_start(loop, &control->pause);
	}
}

static void on_pause_over(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct control_socket *control = timer->data;

	(void)events;
	ev_io_start(loop, &control->io);
}

/*
 * Gives what we have just made to the user that the daemon becomes. That user may be able to put
 * something else in its place meanwhile: so what is given away must be of the kind we made, root's,
 * and have no second name.
 */
static int give(const char *path, mode_t kind, uid_t uid, gid_t gid)
{
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), result = -1, error;
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0) {
		errno = EPERM;
		if ((st.st_mode & S_IFMT) == kind && st.st_uid == geteuid() &&
		    (kind == S_IFDIR || st.st_nlink == 1))
			result = fchownat(fd, "", uid, gid, AT_EMPTY_PATH);
	}
	error = errno;
	close(fd);
	errno = error;
	return result;
}

/* Only the last folder of the path: what is above it isn't ours to make. */
static int make_folder(const char *path, uid_t uid, gid_t gid)
{
	const char *slash = strrchr(path, '/');
	char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];

	if (!slash || slash == path)
		return 0;
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
	if (mkdir(folder, 0755) < 0)
		return errno == EEXIST ? 0 : -1;
	return geteuid() == 0 ? give(folder, S_IFDIR, uid, gid) : 0;
}

/* Removes what a dead daemon left behind: a socket that nobody listens to. */
static int clear_path(const char *path)
{
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -1;
	if (!S_ISSOCK(st.st_mode)) {
		errno = ENOTSOCK;
		return -1;
	}
	fd = control_connect(path);
	if (fd >= 0) {
		close(fd);
		errno = EADDRINUSE;
		return -1;
	}
	return errno == ECONNREFUSED ? unlink(path) : -1;
}

static int open_listener(const char *path, uid_t uid, gid_t gid)
{
	struct sockaddr_un a;
	mode_t before;
	int fd, error;
	bool bound;

	if (make_address(&a, path) < 0 || make_folder(path, uid, gid) < 0 || clear_path(path) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* Not chmod(2) afterwards: there must be no moment when everybody may connect. */
	before = umask(0117);
	bound = bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
	error = errno;
	umask(before);
	if (bound && (geteuid() != 0 || give(path, S_IFSOCK, uid, gid) == 0) &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	if (bound) {
		error = errno;
		unlink(path);
	}
	close(fd);
	errno = error;
	return -1;
}

struct control_socket *control_open(struct ev_loop *loop, const char *path, uid_t uid, gid_t gid,
				    control_text *text, void *arg, char *why, unsigned size)
{
	struct control_socket *control = calloc(1, sizeof(*control));
	int fd = control ? open_listener(path, uid, gid) : -1;

	if (fd < 0) {
		snprintf(why, size, "cannot make the control socket \"%s\": %s", path,
			 errno == EADDRINUSE ? "another daemon serves it"
			 : errno == ENOTSOCK ? "there is a file that is not a socket"
					     : strerror(errno));
		free(control);
		return NULL;
	}
	control->loop = loop;
	strcpy(control->path, path); /* open_listener() has checked the length */
	control->text = text;
	control->arg = arg;
	ev_io_init(&control->io, on_readable, fd, EV_READ);
	control->io.data = control;
	ev_timer_init(&control->pause, on_pause_over, PAUSE, 0.);
	control->pause.data = control;
	ev_io_start(loop, &control->io);
	return control;
}

void control_close(struct control_socket *control)
{
	if (!control)
		return;
	ev_io_stop(control->loop, &control->io);
	ev_timer_stop(control->loop, &control->pause);
	close(control->io.fd);
	unlink(control->path);
	free(control);
}
