/*
 * crypto - what is set once for libcrypto, before its first use.
 */
#pragma once

/* When memory is out, the process ends as policy/base/mem.h says; libcrypto would go on, and not
 * all of it can. Call it first thing; aborts when libcrypto has allocated something already. */
void crypto_memory_setup(void);
