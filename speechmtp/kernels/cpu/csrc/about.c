/* Who compiled the library. */

const char *speechmtp_cpu_compiler(void) {
#ifdef __clang__
    return __VERSION__;
#else
    return "gcc " __VERSION__;
#endif
}
