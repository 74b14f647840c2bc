/* SPDX-License-Identifier: ISC */
/*
 * wan: a WAN link between two network namespaces, in user space. It makes a TUN device in each and
 * carries packets between them through one emulated direction each way (wan_link.h). It prints
 * "ready" once the devices and the control socket stand, and removes both when it ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "wan_control.h"

#define MAX_CONTROLLERS 8
#define MAX_LINE 256
#define MAX_PACKETS 250000 /* of 1500 bytes: 375 MB under way */
#define READ_BATCH 64

/* The device's own queue only bridges our scheduling; dropping is the emulated queue's business. */
#define DEVICE_QUEUE 20000

/*
 * A sleeping process on an idle (virtual) processor wakes up 50 to 250 us after the time it asked
 * for, so we ask for that much earlier, and errors fall on both sides of zero. Waking up is also
 * two fifths of our work at 100 Mbit/s: packets that are due soon after share one wake-up.
 */
#define WAKE_AHEAD UINT64_C(100000)
#define DELIVER_AHEAD UINT64_C(200000)

enum source { FROM_GATEWAY, FROM_RELAY, FROM_SIGNAL, FROM_LISTENER, FROM_CONTROLLER };

struct controller {
	int fd; /* -1 = free */
	size_t used;
	char line[MAX_LINE];
};

struct wan {
	int epoll;
	int signals;
	int listener;
	/* Direction d is read from devices[d] and written to devices[!d]. */
	int devices[WAN_DIRECTIONS];
	struct link links[WAN_DIRECTIONS];
	struct packet_pool pool;
	struct controller controllers[MAX_CONTROLLERS];
};

struct options {
	const char *places[WAN_DIRECTIONS]; /* NAMESPACE:DEVICE of the gateway and the relay */
	const char *control;
	uint64_t seed;
	size_t mtu;
	bool die_with_parent;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static void die(const char *what, const char *name)
{
	fprintf(stderr, "wan: %s %s: %s\n", what, name, strerror(errno));
	exit(1);
}

static void die_usage(const char *problem)
{
	fprintf(stderr,
		"wan: %s\n"
		"usage: wan --gateway NAMESPACE:DEVICE --relay NAMESPACE:DEVICE --control PATH\n"
		"           [--seed N] [--mtu BYTES] [--die-with-parent] [--rate 100mbit] [--delay "
		"50ms]\n"
		"           [--queue BYTES] [--loss 1%%] [--burst N] [--reorder 1%%] "
		"[--reorder-delay 5ms]\n",
		problem);
	exit(2);
}

/* Makes the TUN device of "NAMESPACE:DEVICE" and returns its descriptor; this thread stays there.
 */
static int make_device(const char *place, size_t mtu)
{
	const char *colon = strchr(place, ':');
	struct ifreq request = { 0 };
	char path[256];
	int ns, fd, any;

	if (!colon || strlen(colon + 1) == 0 || strlen(colon + 1) >= IFNAMSIZ)
		die_usage("a place is written NAMESPACE:DEVICE");
	snprintf(path, sizeof(path), "/run/netns/%.*s", (int)(colon - place), place);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		die("cannot enter network namespace", path);
	close(ns);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		die("cannot open", "/dev/net/tun");
	/* No IFF_VNET_HDR: the kernel then segments what it hands us to the MTU. */
	request.ifr_flags = IFF_TUN | IFF_NO_PI;
	strcpy(request.ifr_name, colon + 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		die("cannot make device", place);
	any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	request.ifr_qlen = DEVICE_QUEUE;
	if (any < 0 || ioctl(any, SIOCSIFTXQLEN, &request) < 0)
		die("cannot set the queue length of", place);
	request.ifr_mtu = (int)mtu;
	if (ioctl(any, SIOCSIFMTU, &request) < 0)
		die("cannot set the MTU of", place);
	close(any);
	return fd;
}

static void watch(struct wan *wan, int fd, uint32_t source)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = source };

	if (epoll_ctl(wan->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("cannot watch", "a descriptor");
}

static int listen_control(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		die_usage("the path of the control socket is too long");
	strcpy(address.sun_path, path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, MAX_CONTROLLERS) < 0)
		die("cannot listen on", path);
	return fd;
}

static void accept_controller(struct wan *wan)
{
	int fd = accept4(wan->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	for (uint32_t i = 0; i < MAX_CONTROLLERS; i++) {
		struct controller *controller = &wan->controllers[i];

		if (controller->fd < 0) {
			controller->fd = fd;
			controller->used = 0;
			watch(wan, fd, FROM_CONTROLLER + i);
			return;
		}
	}
	close(fd);
}

static void drop_controller(struct controller *controller)
{
	close(controller->fd);
	controller->fd = -1;
}

/* A controller that does not read its answers is dropped: nobody may make the link wait. */
static void answer_line(struct wan *wan, struct controller *controller, const char *line)
{
	char answer[2048];
	FILE *file = fmemopen(answer, sizeof(answer), "w");
	long size;

	if (!file) {
		drop_controller(controller);
		return;
	}
	wan_command(wan->links, line, now_ns(), file);
	fflush(file);
	size = ftell(file);
	fclose(file);
	if (send(controller->fd, answer, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT) != size)
		drop_controller(controller);
}

static void read_controller(struct wan *wan, struct controller *controller)
{
	ssize_t got = read(controller->fd, controller->line + controller->used,
			   MAX_LINE - controller->used);
	char *end;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		drop_controller(controller);
		return;
	}
	controller->used += (size_t)got;
	while ((end = memchr(controller->line, '\n', controller->used))) {
		size_t size = (size_t)(end - controller->line) + 1;

		*end = '\0';
		answer_line(wan, controller, controller->line);
		if (controller->fd < 0)
			return;
		controller->used -= size;
		memmove(controller->line, controller->line + size, controller->used);
	}
	if (controller->used == MAX_LINE)
		drop_controller(controller);
}

/* Returns false when the device is gone for good. */
static bool read_device(struct wan *wan, enum wan_direction direction)
{
	struct link *link = &wan->links[direction];
	uint8_t excess[1];

	for (int i = 0; i < READ_BATCH; i++) {
		struct packet *packet = pool_get(&wan->pool);
		ssize_t got = packet ? read(wan->devices[direction], packet->data, wan->pool.room)
				     : read(wan->devices[direction], excess, sizeof(excess));

		if (got > 0 && packet) {
			packet->size = (uint32_t)got;
			link_arrive(link, packet, now_ns());
			continue;
		}
		if (packet)
			pool_put(&wan->pool, packet);
		if (got < 0)
			/* EIO: the device is down and may come up again. */
			return errno == EAGAIN || errno == EINTR || errno == EIO;
		link->counters.arrived++;
		link->counters.dropped_queue++;
	}
	return true;
}

static void deliver(struct wan *wan, enum wan_direction direction, uint64_t now)
{
	struct link *link = &wan->links[direction];
	struct packet *packet;

	while ((packet = link_take(link, now + DELIVER_AHEAD))) {
		if (write(wan->devices[!direction], packet->data, packet->size) < 0) {
			link->counters.undeliverable++;
		} else {
			link->counters.packets++;
			link->counters.bytes += packet->size;
			link->counters.late += now > packet->due + LINK_LATE;
		}
		pool_put(&wan->pool, packet);
	}
}

/* Returns false when it is time to end. */
static bool handle(struct wan *wan, uint32_t source)
{
	switch (source) {
	case FROM_GATEWAY:
	case FROM_RELAY:
		if (read_device(wan, source == FROM_GATEWAY ? WAN_UP : WAN_DOWN))
			return true;
		fprintf(stderr, "wan: the device of the %s is gone: %s\n",
			source == FROM_GATEWAY ? "gateway" : "relay", strerror(errno));
		return false;
	case FROM_SIGNAL:
		return false;
	case FROM_LISTENER:
		accept_controller(wan);
		return true;
	default:
		read_controller(wan, &wan->controllers[source - FROM_CONTROLLER]);
		return true;
	}
}

static void run(struct wan *wan)
{
	struct epoll_event events[16];

	for (;;) {
		uint64_t up = link_next(&wan->links[WAN_UP]);
		uint64_t down = link_next(&wan->links[WAN_DOWN]);
		uint64_t next = up < down ? up : down;
		uint64_t now = now_ns();
		uint64_t wait = next > now + WAKE_AHEAD ? next - now - WAKE_AHEAD : 0;
		struct timespec timeout = { .tv_sec = (time_t)(wait / 1000000000),
					    .tv_nsec = (long)(wait % 1000000000) };
		int count = epoll_pwait2(wan->epoll, events, 16,
					 next == LINK_NEVER ? NULL : &timeout, NULL);

		if (count < 0 && errno != EINTR)
			die("cannot wait for", "events");
		for (int i = 0; i < count; i++) {
			if (!handle(wan, events[i].data.u32))
				return;
		}
		now = now_ns();
		deliver(wan, WAN_UP, now);
		deliver(wan, WAN_DOWN, now);
	}
}

static uint64_t parse_number(const char *text, uint64_t least, uint64_t most, const char *problem)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || value < least || value > most)
		die_usage(problem);
	return value;
}

/*
 * Settings given as options go to both directions in the order they are written; the links only
 * know of them, so that an option and a later `set` are one thing.
 */
static void parse_options(int argc, char **argv, struct options *options, struct link *links)
{
	enum { GATEWAY = 1000, RELAY, CONTROL, SEED, MTU, DIE_WITH_PARENT };
	struct option table[32] = {
		{ "gateway", required_argument, NULL, GATEWAY },
		{ "relay", required_argument, NULL, RELAY },
		{ "control", required_argument, NULL, CONTROL },
		{ "seed", required_argument, NULL, SEED },
		{ "mtu", required_argument, NULL, MTU },
		{ "die-with-parent", no_argument, NULL, DIE_WITH_PARENT },
	};
	char error[128];
	int option;

	for (int i = 0; wan_setting_name((size_t)i); i++)
		table[6 + i] =
			(struct option){ wan_setting_name((size_t)i), required_argument, NULL, i };
	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case GATEWAY:
		case RELAY:
			options->places[option == GATEWAY ? WAN_UP : WAN_DOWN] = optarg;
			break;
		case CONTROL:
			options->control = optarg;
			break;
		case SEED:
			options->seed = parse_number(optarg, 0, UINT64_MAX, "bad --seed");
			break;
		case MTU:
			options->mtu = parse_number(optarg, 576, 65535, "bad --mtu");
			break;
		case DIE_WITH_PARENT:
			options->die_with_parent = true;
			break;
		case '?':
			die_usage("see above");
			break;
		default:
			if (!wan_set(links, "both", wan_setting_name((size_t)option), optarg, 0,
				     error, sizeof(error))) {
				fprintf(stderr, "wan: %s\n", error);
				exit(2);
			}
		}
	}
	if (optind != argc || !options->places[WAN_UP] || !options->places[WAN_DOWN] ||
	    !options->control)
		die_usage("--gateway, --relay and --control are needed, and no other words");
}

static void set_up(struct wan *wan, const struct options *options)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	wan->signals = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
	wan->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (wan->signals < 0 || wan->epoll < 0)
		die("cannot make", "an event queue");
	/* The default slack of 50 us would be in every delay. */
	prctl(PR_SET_TIMERSLACK, 1);
	/* What we emulate is hardware: programs under test should not make it wait. Best effort. */
	setpriority(PRIO_PROCESS, 0, -15);
	for (int i = 0; i < WAN_DIRECTIONS; i++) {
		wan->devices[i] = make_device(options->places[i], options->mtu);
		watch(wan, wan->devices[i], i == WAN_UP ? FROM_GATEWAY : FROM_RELAY);
	}
	for (int i = 0; i < MAX_CONTROLLERS; i++)
		wan->controllers[i].fd = -1;
	wan->listener = listen_control(options->control);
	watch(wan, wan->signals, FROM_SIGNAL);
	watch(wan, wan->listener, FROM_LISTENER);
}

int main(int argc, char **argv)
{
	struct options options = { .seed = 1, .mtu = 1500 };
	struct wan wan = { 0 };
	pid_t parent = getppid();

	/* Seeded once the options are read; they are kept in the links. */
	for (int i = 0; i < WAN_DIRECTIONS; i++)
		link_init(&wan.links[i], &wan.pool, 0);
	parse_options(argc, argv, &options, wan.links);
	for (int i = 0; i < WAN_DIRECTIONS; i++)
		wan.links[i].random = options.seed * 2 + (uint64_t)i;
	pool_init(&wan.pool, options.mtu, MAX_PACKETS);
	if (options.die_with_parent) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			return 1;
	}
	set_up(&wan, &options);
	puts("ready");
	fclose(stdout);
	run(&wan);
	unlink(options.control);
	for (int i = 0; i < WAN_DIRECTIONS; i++)
		link_clear(&wan.links[i]);
	pool_free(&wan.pool);
	return 0;
}
