/*
 * fuzz_proxy - any bytes as a PROXY header. A header found must be found the same when more
 * follows, and every shorter beginning of it must ask for more.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "relayd/net/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_info info, again;
    size_t len = 0, len_again = 0;
    struct span in = span_of(data, size);
    enum proxy_status status = proxy_parse(in, &info, &len);

    if (status == PROXY_MORE)
        assert(size < PROXY_V2_BYTES_MAX);
    if (status != PROXY_OK)
        return 0;
    assert(len <= size && len > 0 && len <= PROXY_V2_BYTES_MAX);
    assert(info.local == (info.source.ip.family == 0));
    assert(proxy_parse(span_first(in, len), &again, &len_again) == PROXY_OK && len_again == len);
    assert(net_addr_eq(&info.source, &again.source));
    for (size_t n = 0; n < len; n++) {
        char *part = xmalloc(n);
        memcpy(part, data, n);
        assert(proxy_parse(span_of(part, n), &again, &len_again) == PROXY_MORE);
        free(part);
    }
    return 0;
}
