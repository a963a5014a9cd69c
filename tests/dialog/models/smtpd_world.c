#include "tests/dialog/models/smtpd_world.h"

#include "policy/base/mem.h"

const struct world_path world_paths[] = {
    {"<a@src.test>", "a@src.test", "src.test", false, false},
    {"<x@dst.test>", "x@dst.test", "dst.test", false, false},
    {"<y@DST.test>", "y@DST.test", "dst.test", false, false},
    {"<y@dst.TEST>", "y@dst.TEST", "dst.test", false, false}, /* the same recipient */
    {"<\"a b\"@dst.test>", "\"a b\"@dst.test", "dst.test", false, false},
    {"<>", "", "", false, false},
    {"<postmaster>", "postmaster@relay.test", "relay.test", false, false},
    {"<later@dst.test>", "later@dst.test", "dst.test", false, false},   /* verdict 450 */
    {"<never@dst.test>", "never@dst.test", "dst.test", false, false},   /* verdict 550 */
    {"<full@dst.test>", "full@dst.test", "dst.test", false, false},     /* sink 452 at rcpt */
    {"<busy@src.test>", "busy@src.test", "src.test", false, false},     /* sink 452 at begin */
    {"<broken@src.test>", "broken@src.test", "src.test", false, false}, /* sink 451 at end */
    {"<bad@src.test>", "bad@src.test", "src.test", false, false},       /* sink 554 at end */
    {"<back=x@fwd.test>", "back=x@fwd.test", "fwd.test", false, false}, /* goes to x@dst.test */
    {"<forged@fwd.test>", "forged@fwd.test", "fwd.test", false, false}, /* verdict 550 */
    {"<lost@fwd.test>", "lost@fwd.test", "fwd.test", false, false},     /* goes to nonsense */
    {"<\xc3\xbc@dst.test>", "\xc3\xbc@dst.test", "dst.test", true, false},
    {"<u@b\xc3\xbc"
     "cher.test>",
     "u@xn--bcher-kva.test", "xn--bcher-kva.test", true, false},
    {"<l@[192.0.2.77]>", "l@[192.0.2.77]", "[192.0.2.77]", false, false},
    {"<l@[IPv6:2001:DB8::7]>", "l@[IPv6:2001:DB8::7]", "[IPv6:2001:db8::7]", false, false},
    {"<l@[127.0.0.1]>", "l@[127.0.0.1]", "[127.0.0.1]", false, true},
    {"<l@[192.0.2.1]>", "l@[192.0.2.1]", "[192.0.2.1]", false, true}, /* our own */
    {"<l@192.0.2.77>", NULL, NULL, false, false},
    {"<@a.test,@b.test:x@dst.test>", NULL, NULL, false, false},
    {"<x@dst.test", NULL, NULL, false, false},
    {"x@dst.test", NULL, NULL, false, false},
    {"<x>", NULL, NULL, false, false},
    {"<a..b@dst.test>", NULL, NULL, false, false},
    {"<x@dst.test>junk", NULL, NULL, false, false},
    {"<x@-dst.test>", NULL, NULL, false, false},
    {"<x@dst..test>", NULL, NULL, false, false},
    {"<x\\@dst.test>", NULL, NULL, false, false},
    {"", NULL, NULL, false, false},
};
const unsigned world_n_paths = N_ELEMENTS(world_paths);

/* SIZE and AUTH are judged by the model, which knows the limits and the session. */
const struct world_param world_params[] = {
    {"SMTPUTF8", "SMTPUTF8", 0, 555},
    {"BODY=8BITMIME", "BODY", 0, 555},
    {"body=7bit", "BODY", 0, 555},
    {"SIZE=100", "SIZE", 0, 555},
    {"SIZE=2500", "SIZE", 0, 555},
    {"SIZE=99999999999999999999", "SIZE", 0, 555},
    {"SIZE=123456789012345678901", "SIZE", 501, 555},
    {"RET=HDRS", "RET", 0, 555},
    {"ENVID=a+2Bb", "ENVID", 0, 555},
    {"AUTH=<>", "AUTH", 0, 555},
    {"NOTIFY=NEVER", "NOTIFY", 555, 0},
    {"NOTIFY=SUCCESS,DELAY", "NOTIFY", 555, 0},
    {"ORCPT=rfc822;x@dst.test", "ORCPT", 555, 0},
    {"BODY=BINARYMIME", "BODY", 501, 555},
    {"RET=ALL", "RET", 501, 555},
    {"ENVID=a+0D+0Ab", "ENVID", 501, 555},
    {"SMTPUTF8=yes", "SMTPUTF8", 501, 555},
    {"NOTIFY=NEVER,DELAY", "NOTIFY", 555, 501},
    {"ORCPT=rfc822;x+0Ay", "ORCPT", 555, 501},
    {"FOO=bar", "FOO", 555, 555},
    {"SIZE=", "SIZE", 501, 501},
    {"=x", "=", 501, 501},
};
const unsigned world_n_params = N_ELEMENTS(world_params);

const struct world_response world_responses[] = {
    {"AHUAcA==", "/u/p"}, /* as PLAIN */
    {"AHUAeA==", "/u/x"}, {"dQB1AHA=", "u/u/p"}, {"dgB1AHA=", "v/u/p"},
    {"AHU=", "/u"},       {"AABw", "//p"},       {"dQ==", "u"}, /* as LOGIN */
    {"cA==", "p"},        {"eA==", "x"},         {"", ""},
    {"=", NULL},          {"####", NULL},        {"dQ", NULL},
    {"dQ==dQ==", NULL},   {"*", NULL},
};
const unsigned world_n_responses = N_ELEMENTS(world_responses);

const struct world_path *
world_path(struct span text)
{
    static const struct world_path bad = {"", NULL, NULL, false, false};

    for (unsigned i = 0; i < world_n_paths; i++)
        if (span_eq(span_str(world_paths[i].text), text))
            return &world_paths[i];
    return &bad;
}

struct span
world_begin(struct span sender)
{
    return span_starts(sender, SPAN("busy@")) ? SPAN("452 4.3.1 too busy") : SPAN_NONE;
}

struct span
world_verdict(struct span address, struct span *ret_instead)
{
    *ret_instead = SPAN_NONE;
    if (span_starts(address, SPAN("later@")))
        return SPAN("450 4.2.0 later");
    if (span_starts(address, SPAN("never@")) || span_starts(address, SPAN("forged@")))
        return SPAN("550 5.1.1 never");
    if (span_starts(address, SPAN("back=x@")))
        *ret_instead = SPAN("x@dst.test");
    if (span_starts(address, SPAN("lost@")))
        *ret_instead = SPAN("x@[127.0.0.1]");
    return SPAN_NONE;
}

struct span
world_rcpt(struct span address)
{
    return span_starts(address, SPAN("full@")) ? SPAN("452 4.3.1 full") : SPAN_NONE;
}

struct span
world_end(struct span sender)
{
    if (span_starts(sender, SPAN("broken@")))
        return SPAN("451 4.3.0 broken");
    if (span_starts(sender, SPAN("bad@")))
        return SPAN("554 5.6.0 bad");
    return SPAN("250 2.0.0 queued");
}

bool
world_password(struct span password)
{
    return span_eq(password, SPAN("p"));
}
