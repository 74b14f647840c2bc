/* SPDX-License-Identifier: ISC */
/*
 * Measures what TCP connections from this network namespace to a server in another one get. The
 * server is a thread of this program. Prints one JSON object (hold: one per line of input).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "xfer.h"

enum { PING_SIZE = 64, OPENING_AT_ONCE = 64, PATIENCE_S = 30 };

struct options {
	const char *mode;
	struct sockaddr_in to, rival;
	bool up;
	unsigned long flows, silent, rounds, pause_ms, ping_ms;
	uint64_t size;
	int64_t time; /* ns: how long, or the limit of one round */
};

int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

_Noreturn void die(const char *what)
{
	fprintf(stderr, "xfer: %s: %s\n", what, strerror(errno));
	exit(1);
}

ssize_t pattern_send(const struct run *run, int fd, uint64_t offset, uint64_t left)
{
	return send(fd, run->pattern + offset % PATTERN, left < PIECE ? left : PIECE, MSG_NOSIGNAL);
}

ssize_t pattern_receive(struct run *run, int fd, uint8_t *buffer, uint64_t offset, uint64_t left,
			enum which_meter meter)
{
	ssize_t n = recv(fd, buffer, left < PIECE ? left : PIECE, 0);
	uint64_t bucket;

	if (n <= 0)
		return n;
	bucket = (uint64_t)(now_ns() - atomic_load(&run->start)) / (BUCKET_MS * 1000000LL);
	if (bucket < BUCKETS)
		atomic_fetch_add_explicit(&run->meter[meter].bucket[bucket], (uint64_t)n, memory_order_relaxed);
	if (memcmp(buffer, run->pattern + offset % PATTERN, (size_t)n))
		atomic_fetch_add(&run->corrupt, 1);
	return n;
}

static struct flow *flows_new(unsigned long count)
{
	struct flow *flows = calloc(count, sizeof(*flows));

	if (!flows)
		die("memory for the flows");
	return flows;
}

static struct request object(const struct options *options, uint64_t size)
{
	return (struct request){ .size = size, .operation = options->up ? OP_UP : OP_DOWN };
}

/* A time since the flow's connect() in µs, or null. */
static void print_time(const char *name, const struct flow *flow, int64_t at, const char *end)
{
	if (at)
		printf("\"%s\": %lld%s", name, (long long)(at - flow->connect_at) / 1000, end);
	else
		printf("\"%s\": null%s", name, end);
}

static void print_flow(const struct flow *flow, bool comma)
{
	printf("%s{", comma ? ", " : "");
	print_time("connected", flow, flow->connected_at, ", ");
	print_time("asked", flow, flow->ask_at, ", ");
	print_time("first", flow, flow->first_at, ", ");
	print_time("done", flow, flow->done_at, ", ");
	printf("\"bytes\": %llu, \"error\": ", (unsigned long long)flow->moved);
	if (flow->state == FLOW_FAILED)
		printf("\"%s\"}", strerror(flow->error));
	else
		printf("null}");
}

static void print_meter(const char *name, const struct meter *meter, int64_t length)
{
	int64_t buckets = length / (BUCKET_MS * 1000000LL);

	printf("\"%s\": [", name);
	for (int64_t i = 0; i < buckets && i < BUCKETS; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)meter->bucket[i]);
	printf("], ");
}

/* Unending transfers for a time, beside them perhaps a rival's and a request now and then. */
static void bulk(const struct options *options, struct client *client)
{
	struct flow *flows = flows_new(options->flows), rival = { 0 }, ping = { 0 }, *ended;
	struct request endless = object(options, UINT64_MAX), rivals = endless;
	struct request small = { .size = PING_SIZE, .operation = OP_DOWN, .meter = METER_PING };
	int64_t start = client->run->start, next_ping = INT64_MAX, end = start + options->time;
	unsigned pings = 0;

	rivals.meter = METER_RIVAL;
	for (unsigned long i = 0; i < options->flows; i++)
		flow_open(client, &flows[i], &options->to, &endless, NULL);
	if (options->rival.sin_port)
		flow_open(client, &rival, &options->rival, &rivals, "cubic");
	if (options->ping_ms)
		flow_open(client, &ping, &options->to, &small, NULL);
	printf("{\"pings\": [");
	while (now_ns() < end) {
		ended = client_wait(client, next_ping < end ? next_ping : end);
		if (ended == &ping && ping.state == FLOW_DONE) {
			printf("%s[%lld, %lld]", pings++ ? ", " : "", (long long)(ping.ask_at - start) / 1000,
			       (long long)(ping.done_at - ping.ask_at) / 1000);
			next_ping = ping.ask_at + (int64_t)options->ping_ms * 1000000;
		}
		if (next_ping <= now_ns() && ping.state == FLOW_DONE) {
			flow_ask(client, &ping, &small);
			next_ping = INT64_MAX;
		}
	}
	printf("], \"ping_failed\": %s, ", ping.state == FLOW_FAILED ? "true" : "false");
	printf("\"rival_failed\": %s, ", rival.state == FLOW_FAILED ? "true" : "false");
	print_meter("main", &client->run->meter[METER_MAIN], options->time);
	print_meter("rival", &client->run->meter[METER_RIVAL], options->time);
	printf("\"flows\": [");
	for (unsigned long i = 0; i < options->flows; i++)
		print_flow(&flows[i], i > 0);
	printf("], ");
}

/* Opens flows up to `goal`; each has one small answer and then stays. Returns those that stand. */
static unsigned long raise_to(const struct options *options, struct client *client,
			      struct flow *flows, unsigned long begun, unsigned long goal)
{
	struct request small = { .size = PING_SIZE, .operation = OP_DOWN };
	int64_t deadline = now_ns() + PATIENCE_S * 1000000000LL;
	unsigned long opening = 0, standing = 0;

	while (begun < goal || opening) {
		while (begun < goal && opening < OPENING_AT_ONCE) {
			flow_open(client, &flows[begun++], &options->to, &small, NULL);
			opening++;
		}
		if (!client_wait(client, deadline))
			break;
		/* One that ended later than it stood may be counted here: the sum below is exact. */
		opening -= opening > 0;
	}
	for (unsigned long i = 0; i < begun; i++)
		standing += flows[i].state == FLOW_DONE;
	return standing;
}

/* One round: all at the same time, until each has its object or the time is up. */
static void objects_round(const struct options *options, struct client *client, struct flow *flows)
{
	struct request request = object(options, options->size);
	int64_t deadline = now_ns() + options->time;
	unsigned long left = options->flows;

	for (unsigned long i = 0; i < options->flows; i++)
		flow_open(client, &flows[i], &options->to, &request, NULL);
	while (left && client_wait(client, deadline))
		left--;
	for (unsigned long i = 0; i < options->flows; i++) {
		print_flow(&flows[i], i > 0);
		flow_close(&flows[i]);
	}
}

static void objects(const struct options *options, struct client *client)
{
	struct flow *flows = flows_new(options->flows), *silent = flows_new(options->silent + 1);
	struct timespec pause = { .tv_sec = (time_t)(options->pause_ms / 1000),
				  .tv_nsec = (long)(options->pause_ms % 1000) * 1000000 };

	printf("{\"silent\": %lu, \"rounds\": [", raise_to(options, client, silent, 0, options->silent));
	for (unsigned long i = 0; i < options->rounds; i++) {
		if (i)
			nanosleep(&pause, NULL); /* part of what is measured: flows after a quiet time */
		printf("%s[", i ? ", " : "");
		objects_round(options, client, flows);
		printf("]");
	}
	printf("], ");
	for (unsigned long i = 0; i < options->silent; i++)
		flow_close(&silent[i]);
	free(silent);
	free(flows);
}

/* Short connections, so many at a time, one after the other. */
static void rate(const struct options *options, struct client *client)
{
	struct request request = { .size = options->size, .operation = OP_CLOSE };
	struct flow *flows = flows_new(options->flows), *flow;
	int64_t deadline = client->run->start + options->time;
	unsigned long finished = 0, failed = 0;

	for (unsigned long i = 0; i < options->flows; i++)
		flow_open(client, &flows[i], &options->to, &request, NULL);
	while ((flow = client_wait(client, deadline))) {
		if (flow->state == FLOW_DONE)
			finished++;
		else
			failed++;
		flow_close(flow);
		flow_open(client, flow, &options->to, &request, NULL);
	}
	printf("{\"finished\": %lu, \"failed\": %lu, \"seconds\": %.3f, ", finished, failed,
	       (double)options->time / 1e9);
}

/* Each line of the input is a number of flows to have; they stay until the input ends. */
static void hold(const struct options *options, struct client *client)
{
	struct flow *flows = flows_new(options->flows);
	unsigned long begun = 0, goal;

	while (scanf("%lu", &goal) == 1) {
		if (goal > options->flows || goal < begun) {
			fprintf(stderr, "xfer: hold: %lu is not from %lu to --flows\n", goal, begun);
			exit(2);
		}
		printf("{\"goal\": %lu, \"standing\": %lu}\n", goal,
		       raise_to(options, client, flows, begun, goal));
		fflush(stdout);
		begun = goal;
	}
	printf("{");
}

static const struct {
	const char *name;
	void (*main)(const struct options *, struct client *);
} modes[] = { { "bulk", bulk }, { "objects", objects }, { "rate", rate }, { "hold", hold } };

static struct sockaddr_in parse_address(char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char *colon = strchr(text, ':');

	if (colon) {
		*colon = '\0';
		address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
	}
	if (!address.sin_port || inet_pton(AF_INET, text, &address.sin_addr) != 1) {
		fprintf(stderr, "xfer: '%s' is not an IPv4 address and :PORT\n", text);
		exit(2);
	}
	return address;
}

static void parse(int argc, char **argv, struct options *options, struct run *run)
{
	static const struct option names[] = {
		{ "server-netns", 1, NULL, 'n' }, { "port", 1, NULL, 'p' },   { "to", 1, NULL, 't' },
		{ "rival", 1, NULL, 'r' },	  { "up", 0, NULL, 'u' },     { "flows", 1, NULL, 'f' },
		{ "rounds", 1, NULL, 'k' },	  { "pause", 1, NULL, 'w' },  { "ping", 1, NULL, 'i' },
		{ "size", 1, NULL, 's' },	  { "seconds", 1, NULL, 'l' }, { "silent", 1, NULL, 'q' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'n': run->server_namespace = optarg; break;
		case 'p': run->port = (uint16_t)strtoul(optarg, NULL, 10); break;
		case 't': options->to = parse_address(optarg); break;
		case 'r': options->rival = parse_address(optarg); break;
		case 'u': options->up = true; break;
		case 'f': options->flows = strtoul(optarg, NULL, 10); break;
		case 'q': options->silent = strtoul(optarg, NULL, 10); break;
		case 'k': options->rounds = strtoul(optarg, NULL, 10); break;
		case 'w': options->pause_ms = strtoul(optarg, NULL, 10); break;
		case 'i': options->ping_ms = strtoul(optarg, NULL, 10); break;
		case 's': options->size = strtoull(optarg, NULL, 10); break;
		case 'l': options->time = (int64_t)(strtod(optarg, NULL) * 1e9); break;
		default: exit(2);
		}
	}
	options->mode = argv[optind];
	if (!options->mode || !run->server_namespace || !options->to.sin_port || !run->port) {
		fprintf(stderr, "usage: xfer --server-netns PATH --port PORT --to ADDR:PORT [--flows N] "
				"[--seconds S] [--up] [--size BYTES] [--rounds N] [--pause MS] [--ping MS] "
				"[--silent N] "
				"[--rival ADDR:PORT] bulk|objects|rate|hold\n");
		exit(2);
	}
}

static void start_server(struct run *run)
{
	pthread_t thread;

	for (size_t got = 0; got < PATTERN;) {
		ssize_t n = getrandom(run->pattern + got, PATTERN - got, 0);

		if (n < 0)
			die("getrandom");
		got += (size_t)n;
	}
	memcpy(run->pattern + PATTERN, run->pattern, PIECE);
	errno = pthread_create(&thread, NULL, server_main, run);
	if (errno)
		die("the server's thread");
	while (!atomic_load(&run->serving))
		sched_yield();
}

int main(int argc, char **argv)
{
	struct options options = { .flows = 1, .rounds = 1, .time = 10000000000LL };
	struct run *run = calloc(1, sizeof(*run));
	struct client client;

	if (!run)
		die("memory");
	parse(argc, argv, &options, run);
	start_server(run);
	client_init(&client, run);
	atomic_store(&run->start, now_ns());
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		if (strcmp(modes[i].name, options.mode))
			continue;
		modes[i].main(&options, &client);
		printf("\"corrupt\": %llu}\n", (unsigned long long)run->corrupt);
		return 0;
	}
	fprintf(stderr, "xfer: no mode '%s'\n", options.mode);
	return 2;
}
