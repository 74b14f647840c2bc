/* SPDX-License-Identifier: ISC */
#include "app/config.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define PORT_RELAY 9301

/* The base protocol has no way to give stripes back, so a flow takes all of its own at once. */
#define BASE_STRIPES 8
#define WORKERS_MAX 64
#define CONGESTION_LETTERS "abcdefghijklmnopqrstuvwxyz0123456789_-"

/* Seconds. They have no option: nobody who follows the protocol runs into them. */
#define CONNTRACK_TIMEOUT 1
#define GREETING_TIMEOUT 10
#define JOIN_TIMEOUT 5
#define IDLE_TIMEOUT 600

const char *config_role_name(enum options_role role)
{
	return role == OPTIONS_PROXY ? "proxy" : "relay";
}

union addr *config_listen(struct config *c)
{
	return c->options.role == OPTIONS_PROXY ? &c->proxy.listen : &c->relay.listen;
}

static int fail(char why[OPTIONS_WHY], const char *text)
{
	snprintf(why, OPTIONS_WHY, "%s", text);
	return -1;
}

static bool given(const struct config *c, const char *name)
{
	return options_source(&c->options, name) != OPTIONS_DEFAULT;
}

/*
 * Of two options that contradict each other the one on the command line stands; on the same level
 * it's an error.
 */
static int exclude(struct config *c, const char *one, const char *other, char why[OPTIONS_WHY])
{
	struct options *o = &c->options;

	if (!given(c, one) || !given(c, other))
		return 0;
	if (options_source(o, one) == options_source(o, other)) {
		snprintf(why, OPTIONS_WHY, "--%s and --%s exclude each other", one, other);
		return -1;
	}
	options_reset(o, options_source(o, one) < options_source(o, other) ? one : other);
	return 0;
}

static int init_logging(struct config *c, char why[OPTIONS_WHY])
{
	if (exclude(c, "verbose", "quiet", why) < 0)
		return -1;
	log_init(c->options.verbose ? LOG_LEVEL_DEBUG
		 : c->options.quiet ? LOG_LEVEL_WARN
				    : LOG_LEVEL_INFO);
	return 0;
}

static int resolve(union addr *a, const char *option, const char *text, uint16_t port,
		   char why[OPTIONS_WHY])
{
	const char *reason;

	if (addr_resolve(a, text, port, &reason) == 0)
		return 0;
	snprintf(why, OPTIONS_WHY, "--%s: \"%s\": %s", option, text, reason);
	return -1;
}

/*
 * Reads the whole of a file into buffer. Returns its length, or -1 with errno set: EFBIG if it
 * doesn't fit.
 */
static ssize_t read_whole(const char *path, char *buffer, size_t size, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
	size_t used = 0;
	ssize_t got = 1;

	if (fd < 0)
		return -1;
	if (fstat(fd, st) < 0)
		got = -1;
	while (got > 0 && used < size) {
		got = read(fd, buffer + used, size - used);
		if (got > 0)
			used += (size_t)got;
	}
	if (got != 0)
		error = got < 0 ? errno : EFBIG;
	close(fd);
	errno = error;
	return error ? -1 : (ssize_t)used;
}

static int load_keys(struct keyring *ring, const char *path, char why[OPTIONS_WHY])
{
	/* Twice what KEYRING_MAX keys take: room for comments. */
	static const size_t size = 2 * KEYRING_MAX * (size_t)KEY_TEXT;
	char *text = sodium_malloc(size);
	const char *reason;
	struct stat st;
	unsigned line;
	ssize_t length;
	int result = -1;

	if (!text)
		return fail(why, "--key: out of memory");
	length = read_whole(path, text, size, &st);
	if (length < 0)
		snprintf(why, OPTIONS_WHY, "--key: cannot read \"%s\": %s", path, strerror(errno));
	else if (keyring_parse(ring, text, (size_t)length, &line, &reason) < 0)
		snprintf(why, OPTIONS_WHY, "%s:%u: %s", path, line, reason);
	else
		result = 0;
	sodium_free(text);
	if (result == 0 && (st.st_mode & S_IROTH))
		log_warnx("everybody can read the key file \"%s\": chmod o= %s", path, path);
	return result;
}

static int set_engine(struct config *c, char why[OPTIONS_WHY])
{
	const char *name = c->options.congestion;

	c->engine.splice = !c->options.no_splice;
	if (!name)
		return 0;
	if (strlen(name) >= sizeof(c->engine.congestion) ||
	    strspn(name, CONGESTION_LETTERS) != strlen(name)) {
		snprintf(why, OPTIONS_WHY, "--congestion: \"%s\" is not the name of an algorithm",
			 name);
		return -1;
	}
	strcpy(c->engine.congestion, name);
	return 0;
}

static unsigned count_cores(void)
{
	cpu_set_t set;
	int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return cores > WORKERS_MAX ? WORKERS_MAX : (unsigned)cores;
}

static int set_proxy_key(struct config *c, char why[OPTIONS_WHY])
{
	struct keyring ring;

	if (exclude(c, "key", "insecure", why) < 0)
		return -1;
	if (c->options.protocol == OPTIONS_BASE) {
		if (given(c, "key"))
			return fail(why, "--key: the base protocol has no keys");
		if (given(c, "pool"))
			return fail(why, "--pool: the base protocol has no pool");
		return 0;
	}
	if (!c->options.key)
		return 0;
	if (load_keys(&ring, c->options.key, why) < 0)
		return -1;
	c->proxy.key = ring.keys[0];
	keyring_clear(&ring);
	return 0;
}

static int set_proxy(struct config *c, char why[OPTIONS_WHY])
{
	const struct options *o = &c->options;
	struct proxy_settings *s = &c->proxy;

	if (!o->relay)
		return fail(why, "--relay is missing: name the host where the relay runs");
	if (set_proxy_key(c, why) < 0 || resolve(&s->relay, "relay", o->relay, PORT_RELAY, why) < 0)
		return -1;
	s->listen = o->listen;
	s->capture = o->capture == 0 ? CAPTURE_TPROXY : CAPTURE_REDIRECT;
	s->base_protocol = o->protocol == OPTIONS_BASE;
	s->stripes = o->stripes;
	s->stripes_min = o->stripes_min;
	if (s->base_protocol && !given(c, "stripes"))
		s->stripes = BASE_STRIPES;
	s->pool_min = s->base_protocol ? 0 : o->pool.min;
	s->pool_max = s->base_protocol ? 0 : o->pool.max;
	s->conntrack_zone = (uint16_t)o->conntrack_zone;
	s->conntrack_timeout = CONNTRACK_TIMEOUT;
	s->connect_timeout = o->connect_timeout;
	s->max_flows = o->max_flows;
	if (!o->key && !o->insecure && !s->base_protocol)
		log_warnx("no --key: only a relay that is told --insecure will serve this proxy");
	return 0;
}

static int check_relay_trust(const struct options *o, char why[OPTIONS_WHY])
{
	if (o->allow_base && !o->server)
		return fail(why,
			    "--allow-base needs --server: the base protocol cannot name a server");
	if (o->server && !o->allow_base)
		return fail(
			why,
			"--server needs --allow-base: only flows of the base protocol go there");
	if (!o->key && !o->insecure)
		return fail(why, "--key is missing: without one this is an open door; if that is "
				 "meant, say --insecure");
	return 0;
}

static int set_relay(struct config *c, char why[OPTIONS_WHY])
{
	const struct options *o = &c->options;
	struct relay_settings *s = &c->relay;

	if (check_relay_trust(o, why) < 0)
		return -1;
	if (o->server && resolve(&s->server, "server", o->server, 0, why) < 0)
		return -1;
	if (o->key && load_keys(&s->keys, o->key, why) < 0)
		return -1;
	if (!o->key)
		log_warnx("no --key: everybody who reaches this relay can use it");
	s->listen = o->listen;
	s->allow_base = o->allow_base;
	s->rules = o->rules;
	s->greeting_timeout = GREETING_TIMEOUT;
	s->connect_timeout = o->connect_timeout;
	s->join_timeout = JOIN_TIMEOUT;
	s->idle_timeout = IDLE_TIMEOUT;
	s->max_stripes = o->max_stripes;
	s->max_stripes_per_peer = o->max_stripes_per_peer;
	s->max_groups = o->max_groups;
	return 0;
}

int config_load(struct config *c, enum options_role role, int argc, char **argv,
		char why[OPTIONS_WHY])
{
	memset(c, 0, sizeof(*c));
	if (options_read(&c->options, role, argc, argv, why) < 0)
		return -1;
	if (c->options.help)
		return 0;
	if (init_logging(c, why) < 0 || set_engine(c, why) < 0)
		return -1;
	c->workers = c->options.workers ? c->options.workers : count_cores();
	return role == OPTIONS_PROXY ? set_proxy(c, why) : set_relay(c, why);
}

void config_clear(struct config *c)
{
	if (c->options.role == OPTIONS_PROXY)
		sodium_memzero(&c->proxy.key, sizeof(c->proxy.key));
	else
		keyring_clear(&c->relay.keys);
	options_clear(&c->options);
}
