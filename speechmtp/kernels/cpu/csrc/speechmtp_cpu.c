/* What the loader asks of the library before it uses anything else. */

#include <math.h>

/* Number of this library's interface: the one of ABI in library.py. */
int speechmtp_cpu_abi(void) { return 1; }

/* 0 if arithmetic with this library's instructions gives what is known, else the number of the first that does not. */
int speechmtp_cpu_selftest(void) {
    typedef float lanes __attribute__((vector_size(32)));
    lanes sum = {0};
    for (int i = 1; i <= 4; i++) {
        const float x = (float)i;
        sum += (lanes){x, x, x, x, x, x, x, x} * (lanes){0, 1, 2, 3, 4, 5, 6, 7};
    }
    float total = 0;
    for (int i = 0; i < 8; i++) total += sum[i];
    if (total != 280.0f) return 1;
    return fabsf(expf(total / 280.0f) - 2.7182818f) < 1e-6f ? 0 : 2;
}
