/* SPDX-License-Identifier: ISC */
/*
 * Preloaded into the proxy, it makes conntrack slow: what is asked over netlink while the file named by $SLOW_CONNTRACK exists reaches the kernel
 * only when the file has gone.
 *
 *     cc -shared -fPIC -o slow_conntrack.so slow_conntrack.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_AGAIN 2000 /* microseconds; no event tells that a file has gone */

typedef ssize_t send_function(int fd, const void *bytes, size_t n, int flags);

struct question {
	int fd;
	int flags;
	size_t n;
	char bytes[];
};

static send_function *real_send(void)
{
	return (send_function *)dlsym(RTLD_NEXT, "send");
}

static int is_slow(void)
{
	const char *file = getenv("SLOW_CONNTRACK");

	return file != NULL && access(file, F_OK) == 0;
}

static void *ask_later(void *arg)
{
	struct question *question = arg;

	while (is_slow())
		usleep(LOOK_AGAIN);
	real_send()(question->fd, question->bytes, question->n, question->flags);
	free(question);
	return NULL;
}

ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
	struct question *question;
	socklen_t length = sizeof(int);
	pthread_t thread;
	int domain;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 || domain != AF_NETLINK || !is_slow())
		return real_send()(fd, bytes, n, flags);
	question = malloc(sizeof(*question) + n);
	if (question == NULL)
		abort();
	*question = (struct question){.fd = fd, .flags = flags, .n = n};
	memcpy(question->bytes, bytes, n);
	if (pthread_create(&thread, NULL, ask_later, question) != 0)
		abort();
	pthread_detach(thread);
	return (ssize_t)n;
}
