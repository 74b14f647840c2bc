/* SPDX-License-Identifier: ISC */
/*
 * crossover: from which size on splicing a piece from one TCP connection to another costs less than copying it. Both ways do what the engine does
 * (net/hold.c): a piece that is there is moved by splice(2) into a pipe and out of it, or by recv(2) and send(2). Pieces arrive over loopback in
 * segments of a WAN's size; the time is that of this thread while it moves them. Prints a table.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE_MAX (256 * 1024)
#define SEGMENT 1448
#define BYTES (64 * 1024 * 1024) /* of each measurement */
#define ROUNDS 5

static uint8_t buffer[PIECE_MAX];

static void die(const char *what)
{
	fprintf(stderr, "crossover: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* fds[0] sends to fds[1]. */
static void tcp_pair(int fds[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(a);
	const int one = 1, segment = SEGMENT, room = 8 * PIECE_MAX;
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fds[0], IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment));
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	if (listener < 0 || fds[0] < 0 || bind(listener, (struct sockaddr *)&a, length) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &length) < 0 || connect(fds[0], (struct sockaddr *)&a, length) < 0)
		die("connecting");
	fds[1] = accept(listener, NULL, NULL);
	if (fds[1] < 0)
		die("accepting");
	setsockopt(fds[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	close(listener);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void copy(int from, int to, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = recv(from, buffer, size - n, 0);

		if (got <= 0 || send(to, buffer, (size_t)got, MSG_NOSIGNAL) != got)
			die("copying");
		n += (size_t)got;
	}
}

static void splice_over(int from, int to, size_t size, const int pipe[2])
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = splice(from, NULL, pipe[1], NULL, size - n, SPLICE_F_MOVE);

		if (got <= 0)
			die("splicing");
		n += (size_t)got;
		for (ssize_t out = 0, part; out < got; out += part) {
			part = splice(pipe[0], NULL, to, NULL, (size_t)(got - out), SPLICE_F_MOVE);
			if (part <= 0)
				die("splicing");
		}
	}
}

/* Microseconds that moving a piece takes. */
static double measure(const int in[2], const int out[2], size_t size, const int *pipe)
{
	unsigned pieces = BYTES / (unsigned)size;
	double used = 0., began;

	for (unsigned i = 0; i < pieces; i++) {
		if (send(in[0], buffer, size, MSG_NOSIGNAL) != (ssize_t)size)
			die("sending");
		began = now();
		if (pipe != NULL)
			splice_over(in[1], out[0], size, pipe);
		else
			copy(in[1], out[0], size);
		used += now() - began;
		if (recv(out[1], buffer, size, MSG_WAITALL | MSG_TRUNC) != (ssize_t)size)
			die("receiving");
	}
	return used / pieces * 1e6;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double values[ROUNDS])
{
	qsort(values, ROUNDS, sizeof(values[0]), by_size);
	return values[ROUNDS / 2];
}

int main(void)
{
	int in[2], out[2], pipe[2];
	double copied[ROUNDS], spliced[ROUNDS];

	tcp_pair(in);
	tcp_pair(out);
	if (pipe2(pipe, 0) < 0)
		die("making a pipe");
	fcntl(pipe[1], F_SETPIPE_SZ, PIECE_MAX);
	printf("  bytes   copy, us  splice, us  splice is\n");
	for (size_t size = 1024; size <= PIECE_MAX; size *= 2) {
		for (unsigned i = 0; i < ROUNDS; i++) {
			copied[i] = measure(in, out, size, NULL);
			spliced[i] = measure(in, out, size, pipe);
		}
		printf("%7zu  %9.2f  %10.2f  %6.2f x\n", size, median(copied), median(spliced), median(copied) / median(spliced));
	}
	return 0;
}
