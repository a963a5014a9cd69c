#include "relayd/ops/utf8.h"

#include "policy/base/mem.h"

struct range {
    uint32_t first, last;
};

static bool
in_ranges(uint32_t cp, const struct range *ranges, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (cp >= ranges[i].first && cp <= ranges[i].last)
            return true;
    return false;
}

size_t
utf8_next(struct span s, uint32_t *ret)
{
    const unsigned char *p = (const unsigned char *)s.p;
    unsigned char lead = p[0];
    if (lead < 0x80) {
        *ret = lead;
        return 1;
    }
    size_t n;
    uint32_t cp, least;
    if (lead >= 0xc2 && lead <= 0xdf) {
        n = 2, cp = lead & 0x1fu, least = 0x80;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        n = 3, cp = lead & 0x0fu, least = 0x800;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        n = 4, cp = lead & 0x07u, least = 0x10000;
    } else {
        return 0;
    }
    if (s.n < n)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        cp = cp << 6 | (p[i] & 0x3fu);
    }
    if (cp < least || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return 0;
    *ret = cp;
    return n;
}

bool
utf8_valid(struct span s)
{
    uint32_t cp;
    while (s.n > 0) {
        size_t n = utf8_next(s, &cp);
        if (n == 0)
            return false;
        s = span_from(s, n);
    }
    return true;
}

bool
utf8_unsafe(uint32_t cp)
{
    static const struct range unsafe[] = {
        {0x00, 0x1f},     {0x7f, 0x9f},     {0xad, 0xad},       {0x061c, 0x061c},
        {0x180e, 0x180e}, {0x200b, 0x200f}, {0x2028, 0x202e},   {0x2060, 0x206f},
        {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe007f},
    };
    if (cp >= 0x20 && cp < 0x7f)
        return false;
    return in_ranges(cp, unsafe, N_ELEMENTS(unsafe));
}

void
utf8_add_printable(struct strbuf *out, struct span s)
{
    while (s.n > 0) {
        uint32_t cp;
        size_t n = utf8_next(s, &cp);
        if (n == 0 || (cp < 0x100 && utf8_unsafe(cp) && n == 1)) {
            strbuf_printf(out, "\\x%02x", (unsigned)(unsigned char)s.p[0]);
            n = 1;
        } else if (utf8_unsafe(cp)) {
            strbuf_printf(out, "\\u{%x}", (unsigned)cp);
        } else {
            strbuf_add(out, s.p, n);
        }
        s = span_from(s, n);
    }
}

size_t
utf8_width(struct span s)
{
    static const struct range wide[] = {
        {0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0x33ff}, {0x3400, 0x4dbf},
        {0x4e00, 0x9fff},   {0xa000, 0xa4cf},   {0xac00, 0xd7a3}, {0xf900, 0xfaff},
        {0xfe30, 0xfe4f},   {0xff00, 0xff60},   {0xffe0, 0xffe6}, {0x1f300, 0x1f64f},
        {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd},
    };
    static const struct range none[] = {{0x0300, 0x036f}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}};
    size_t width = 0;
    while (s.n > 0) {
        uint32_t cp = 0;
        size_t n = utf8_next(s, &cp);
        if (n == 0)
            n = 1, cp = '?';
        if (in_ranges(cp, wide, N_ELEMENTS(wide)))
            width += 2;
        else if (!in_ranges(cp, none, N_ELEMENTS(none)))
            width += 1;
        s = span_from(s, n);
    }
    return width;
}
