/*
 * A database in MaxMind's format (version 2.0) made from a few rows, for tests. IPv6 with the IPv4
 * addresses at ::/96, as the published ones; records of 24 bits.
 */
#pragma once

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/ip.h"
#include "policy/base/mem.h"

#define MMDB_NODES_MAX 4096
#define MMDB_EMPTY UINT32_MAX
#define MMDB_DATA ((uint32_t)1 << 30) /* and the offset of the entry */

struct mmdb_row {
    const char *block;                /* "192.0.2.0/24"; no block inside one that comes later */
    const char *country, *registered; /* "US"; NULL: the entry does not say */
};

static void
mmdb_head(struct strbuf *out, unsigned type, size_t n)
{
    assert(n < 29);
    strbuf_add_byte(out, (char)(type > 7 ? n : type << 5 | n));
    if (type > 7)
        strbuf_add_byte(out, (char)(type - 7));
}

static void
mmdb_text(struct strbuf *out, const char *text)
{
    mmdb_head(out, 2, strlen(text));
    strbuf_add_str(out, text);
}

static void
mmdb_number(struct strbuf *out, const char *key, unsigned type, uint32_t value)
{
    mmdb_text(out, key);
    mmdb_head(out, type, 4 - (type == 5 ? 2 : 0));
    for (int shift = type == 5 ? 8 : 24; shift >= 0; shift -= 8)
        strbuf_add_byte(out, (char)(value >> shift));
}

static void
mmdb_country(struct strbuf *out, const char *key, const char *code)
{
    if (code == NULL)
        return;
    mmdb_text(out, key);
    mmdb_head(out, 7, 1);
    mmdb_text(out, "iso_code");
    mmdb_text(out, code);
}

static void
mmdb_insert(uint32_t (*nodes)[2], uint32_t *n_nodes, const struct mmdb_row *row, uint32_t data)
{
    struct cidr block;
    uint8_t key[16] = {0};
    if (cidr_parse(span_str(row->block), &block, NULL) != ERR_OK)
        abort();
    unsigned n_bits = block.bits + (block.ip.family == 4 ? 96 : 0);
    memcpy(key + (block.ip.family == 4 ? 12 : 0), block.ip.bytes, block.ip.family == 4 ? 4 : 16);
    uint32_t at = 0;
    for (unsigned i = 0; i + 1 < n_bits; i++) {
        uint32_t *next = &nodes[at][key[i / 8] >> (7 - i % 8) & 1];
        if (*next == MMDB_EMPTY) {
            assert(*n_nodes < MMDB_NODES_MAX);
            nodes[*n_nodes][0] = nodes[*n_nodes][1] = MMDB_EMPTY;
            *next = (*n_nodes)++;
        }
        assert(*next < MMDB_DATA);
        at = *next;
    }
    nodes[at][key[(n_bits - 1) / 8] >> (7 - (n_bits - 1) % 8) & 1] = MMDB_DATA | data;
}

static void
mmdb_meta(struct strbuf *out, const char *type, uint32_t n_nodes)
{
    strbuf_add(out, "\xab\xcd\xefMaxMind.com", 14);
    mmdb_head(out, 7, 9);
    mmdb_number(out, "node_count", 6, n_nodes);
    mmdb_number(out, "record_size", 5, 24);
    mmdb_number(out, "ip_version", 5, 6);
    mmdb_text(out, "database_type");
    mmdb_text(out, type);
    mmdb_text(out, "languages");
    mmdb_head(out, 11, 0);
    mmdb_number(out, "binary_format_major_version", 5, 2);
    mmdb_number(out, "binary_format_minor_version", 5, 0);
    mmdb_number(out, "build_epoch", 9, 1700000000);
    mmdb_text(out, "description");
    mmdb_head(out, 7, 0);
}

static void
mmdb_make(struct strbuf *out, const char *type, const struct mmdb_row *rows, size_t n)
{
    static uint32_t nodes[MMDB_NODES_MAX][2];
    uint32_t n_nodes = 1;
    struct strbuf data = STRBUF_INIT;
    nodes[0][0] = nodes[0][1] = MMDB_EMPTY;
    for (size_t i = 0; i < n; i++) {
        mmdb_insert(nodes, &n_nodes, &rows[i], (uint32_t)data.n);
        mmdb_head(&data, 7, (rows[i].country != NULL) + (rows[i].registered != NULL));
        mmdb_country(&data, "registered_country", rows[i].registered);
        mmdb_country(&data, "country", rows[i].country);
    }
    for (uint32_t i = 0; i < n_nodes; i++)
        for (int side = 0; side < 2; side++) {
            uint32_t value = nodes[i][side];
            if (value == MMDB_EMPTY)
                value = n_nodes;
            else if (value >= MMDB_DATA)
                value = value - MMDB_DATA + n_nodes + 16;
            for (int shift = 16; shift >= 0; shift -= 8)
                strbuf_add_byte(out, (char)(value >> shift));
        }
    strbuf_add(out, (char[16]){0}, 16);
    strbuf_add_span(out, strbuf_span(&data));
    mmdb_meta(out, type, n_nodes);
    strbuf_release(&data);
}

/* Write the bytes to a file; what stood there is written over in place. */
static void
mmdb_save(const char *path, struct span bytes)
{
    FILE *f = fopen(path, "w");
    if (f == NULL || fwrite(bytes.p, 1, bytes.n, f) != bytes.n || fclose(f) != 0)
        abort();
}
