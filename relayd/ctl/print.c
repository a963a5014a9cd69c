/*
 * Printing for people. Everything that came from outside goes through utf8_add_printable(): an
 * address or a reply may not drive the terminal. Colours only on a terminal.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ops/api.h"
#include "relayd/ops/utf8.h"

static const char *const color_codes[] = {
    [CTL_PLAIN] = "",         [CTL_GOOD] = "\033[32m", [CTL_WARN] = "\033[33m",
    [CTL_BAD] = "\033[1;31m", [CTL_DIM] = "\033[2m",   [CTL_BOLD] = "\033[1m",
};

int
ctl_finish(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    ctl_complain("standard output: %s", strerror(errno));
    return EX_IOERR;
}

int
ctl_print_json(const cJSON *json)
{
    CLEANUP(freep) char *text = cJSON_Print(json);
    if (text == NULL)
        return EX_SOFTWARE;
    puts(text);
    return ctl_finish();
}

void
ctl_print_text(const struct ctl *ctl, enum ctl_color color, const char *text)
{
    CLEANUP(strbuf_release) struct strbuf safe = STRBUF_INIT;
    utf8_add_printable(&safe, span_str(text));
    bool colored = ctl->color && color != CTL_PLAIN;
    printf("%s%s%s", colored ? color_codes[color] : "", safe.n == 0 ? "" : safe.p,
           colored ? "\033[0m" : "");
}

void
ctl_print_field(const struct ctl *ctl, const char *name, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    printf("%-12s ", name);
    ctl_print_text(ctl, CTL_PLAIN, value);
    putchar('\n');
}

char *
ctl_duration(msec_t ms, char buf[CTL_TIME_BYTES])
{
    long long s = (ms < 0 ? 0 : ms + 500) / 1000;
    if (s < 60)
        snprintf(buf, CTL_TIME_BYTES, "%llds", s);
    else if (s < 3600)
        snprintf(buf, CTL_TIME_BYTES, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(buf, CTL_TIME_BYTES, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(buf, CTL_TIME_BYTES, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    return buf;
}

char *
ctl_when(const char *text, char buf[CTL_TIME_BYTES])
{
    struct timespec ts;
    msec_t at;
    char length[CTL_TIME_BYTES];
    if (text == NULL || !api_time_parse(text, &at)) {
        snprintf(buf, CTL_TIME_BYTES, "-");
        return buf;
    }
    clock_gettime(CLOCK_REALTIME, &ts);
    msec_t off = at - ((msec_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000);
    if (off > -SECOND && off < SECOND)
        snprintf(buf, CTL_TIME_BYTES, "now");
    else if (off > 0)
        snprintf(buf, CTL_TIME_BYTES, "in %.20s", ctl_duration(off, length));
    else
        snprintf(buf, CTL_TIME_BYTES, "%.20s ago", ctl_duration(-off, length));
    return buf;
}

char *
ctl_size(double bytes, char buf[CTL_TIME_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t i = 0;
    while (bytes >= 1024 && i + 1 < N_ELEMENTS(units))
        bytes /= 1024, i++;
    snprintf(buf, CTL_TIME_BYTES, i == 0 ? "%.0f %s" : "%.1f %s", bytes, units[i]);
    return buf;
}

/* ---- tables ---- */

void
ctl_table_init(struct ctl_table *table, const char *const *titles, size_t n_columns)
{
    *table = (struct ctl_table){.titles = titles, .n_columns = n_columns};
}

void
ctl_table_add_color(struct ctl_table *table, enum ctl_color color, const char *text)
{
    struct strbuf safe = STRBUF_INIT;
    if (table->n_cells == table->cap) {
        table->cap = table->cap == 0 ? 64 : table->cap * 2;
        table->cells = xrealloc(table->cells, table->cap * sizeof(char *));
        table->colors = xrealloc(table->colors, table->cap * sizeof(enum ctl_color));
    }
    if (text == NULL || text[0] == '\0')
        strbuf_add_byte(&safe, '-');
    else
        utf8_add_printable(&safe, span_str(text));
    table->colors[table->n_cells] = color;
    table->cells[table->n_cells++] = strbuf_take(&safe);
}

void
ctl_table_add(struct ctl_table *table, const char *text)
{
    ctl_table_add_color(table, CTL_PLAIN, text);
}

void
ctl_table_printf(struct ctl_table *table, const char *fmt, ...)
{
    va_list ap;
    char *text;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    ctl_table_add(table, text);
    free(text);
}

static const char *
title_of(const struct ctl_table *table, size_t column, bool *ret_right)
{
    const char *title = table->titles[column];
    *ret_right = title[0] == '>';
    return *ret_right ? title + 1 : title;
}

static void
print_cell(const struct ctl *ctl, enum ctl_color color, const char *text, size_t width, bool right,
           bool last)
{
    size_t have = utf8_width(span_str(text)), pad = width > have ? width - have : 0;
    bool colored = ctl->color && color != CTL_PLAIN;
    printf("%*s%s%s%s", right ? (int)pad : 0, "", colored ? color_codes[color] : "", text,
           colored ? "\033[0m" : "");
    if (last)
        putchar('\n');
    else
        printf("%*s  ", right ? 0 : (int)pad, "");
}

void
ctl_table_print(const struct ctl *ctl, struct ctl_table *table)
{
    size_t widths[CTL_COLUMNS_MAX], n = table->n_columns;
    bool right;
    for (size_t c = 0; c < n; c++)
        widths[c] = strlen(title_of(table, c, &right));
    for (size_t i = 0; i < table->n_cells; i++) {
        size_t width = utf8_width(span_str(table->cells[i]));
        if (width > widths[i % n])
            widths[i % n] = width;
    }
    for (size_t c = 0; c < n && table->n_cells > 0; c++) {
        const char *title = title_of(table, c, &right);
        print_cell(ctl, CTL_BOLD, title, widths[c], right, c + 1 == n);
    }
    for (size_t i = 0; i < table->n_cells; i++) {
        title_of(table, i % n, &right);
        print_cell(ctl, table->colors[i], table->cells[i], widths[i % n], right, i % n + 1 == n);
    }
    ctl_table_release(table);
}

void
ctl_table_release(struct ctl_table *table)
{
    for (size_t i = 0; i < table->n_cells; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table->colors);
    *table = (struct ctl_table){0};
}
