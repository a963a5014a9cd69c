/*
 * The trap of a relay in a container: with a userland proxy or masquerading in front, every client
 * comes from the default gateway, so a trusted block that holds it trusts the whole world. What the
 * kernel says is read through the source, so tests can say it too.
 */
#include "policy/config_build.h"

#include <ctype.h>
#include <stdlib.h>

#define PROC_FILE_MAX ((size_t)4 << 20)
#define FIELDS_MAX 12
#define RTF_GATEWAY 0x2u

static bool
source_read(const struct builder *b, const char *path, struct config_blob *ret)
{
    return b->source->read(b->source->ctx, path, PROC_FILE_MAX, ret, NULL) == ERR_OK;
}

static bool
exists(const struct builder *b, const char *path)
{
    struct config_blob blob;
    if (!source_read(b, path, &blob))
        return false;
    free(blob.bytes);
    return true;
}

/* Fields of a line, separated by blanks; returns how many (at most FIELDS_MAX). */
static size_t
split_fields(struct span line, struct span fields[FIELDS_MAX])
{
    size_t n = 0;
    while (n < FIELDS_MAX) {
        line = span_trim(line);
        size_t length = 0;
        while (length < line.n && !isspace((unsigned char)line.p[length]))
            length++;
        if (length == 0)
            break;
        fields[n++] = span_first(line, length);
        line = span_from(line, length);
    }
    return n;
}

/* Kubernetes leaves no marker file, but a root directory on overlay is none of a machine's. */
static bool
root_is_overlay(const struct builder *b)
{
    struct config_blob blob;
    if (!source_read(b, "/proc/self/mounts", &blob))
        return false;
    bool found = false;
    struct span rest = span_of(blob.bytes, blob.n);
    while (rest.n > 0 && !found) {
        struct span fields[FIELDS_MAX];
        struct span line = span_cut(&rest, '\n');
        found = split_fields(line, fields) >= 3 && span_eq(fields[1], SPAN("/")) &&
                (span_eq(fields[2], SPAN("overlay")) ||
                 span_eq(fields[2], SPAN("fuse.fuse-overlayfs")));
    }
    free(blob.bytes);
    return found;
}

static bool
in_container(const struct builder *b)
{
    return exists(b, "/.dockerenv") || exists(b, "/run/.containerenv") || root_is_overlay(b);
}

static bool
parse_hex(struct span text, uint8_t *bytes, size_t n)
{
    if (text.n != n * 2)
        return false;
    for (size_t i = 0; i < n; i++) {
        const char digits[3] = {text.p[2 * i], text.p[2 * i + 1], '\0'};
        char *end;
        bytes[i] = (uint8_t)strtoul(digits, &end, 16);
        if (*end != '\0')
            return false;
    }
    return true;
}

/* A line of /proc/net/route: Iface Destination Gateway Flags ...; addresses in host byte order. */
static bool
default_gateway_v4(struct span line, struct ip *ret)
{
    struct span f[FIELDS_MAX];
    uint8_t gateway[4], flags[2];
    if (split_fields(line, f) < 8 || !span_eq(f[1], SPAN("00000000")) ||
        !span_eq(f[7], SPAN("00000000")) || !parse_hex(f[2], gateway, 4) ||
        !parse_hex(f[3], flags, 2))
        return false;
    *ret = (struct ip){.family = 4};
    for (size_t i = 0; i < 4; i++)
        ret->bytes[i] = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? gateway[3 - i] : gateway[i];
    return (flags[1] & RTF_GATEWAY) != 0;
}

/* A line of /proc/net/ipv6_route: destination length source length next-hop ... */
static bool
default_gateway_v6(struct span line, struct ip *ret)
{
    struct span f[FIELDS_MAX];
    if (split_fields(line, f) < 10 || !span_eq(f[0], SPAN("00000000000000000000000000000000")) ||
        !span_eq(f[1], SPAN("00")))
        return false;
    *ret = (struct ip){.family = 6};
    return parse_hex(f[4], ret->bytes, 16) && !ip_is_unspecified(ret);
}

static void
check_block(struct builder *b, const struct ip *gateway)
{
    const struct config *config = b->config;
    for (size_t i = 0; i < config->n_trusted; i++) {
        const struct config_trust *entry = &config->trusted[i];
        if (entry->require_auth)
            continue; /* the address alone gives nothing */
        for (size_t j = 0; j < entry->n_cidrs; j++) {
            char block[CIDR_TEXT_MAX], address[IP_TEXT_MAX];
            if (cidr_has(&entry->cidrs[j], gateway))
                CONFIG_FAULT(
                    b, entry->mark, arena_printf(b->arena, "trusted_clients[%zu].cidr", i),
                    "%s holds the default gateway %s of this container, by which strangers "
                    "may come; expected a smaller block, or allow_gateway: true",
                    cidr_format(&entry->cidrs[j], block), ip_format(gateway, address));
        }
    }
}

static void
check_routes(struct builder *b, const char *path, bool (*parse)(struct span line, struct ip *ret))
{
    struct config_blob blob;
    if (!source_read(b, path, &blob))
        return;
    struct span rest = span_of(blob.bytes, blob.n);
    while (rest.n > 0) {
        struct ip gateway;
        if (parse(span_cut(&rest, '\n'), &gateway))
            check_block(b, &gateway);
    }
    free(blob.bytes);
}

void
config_check_gateway(struct builder *b)
{
    if (b->config->allow_gateway || b->config->n_trusted == 0 || !in_container(b))
        return;
    check_routes(b, "/proc/net/route", default_gateway_v4);
    check_routes(b, "/proc/net/ipv6_route", default_gateway_v6);
}
