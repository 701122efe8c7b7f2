"""For all tests."""

import signal

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: tests
# that interrupt a program would wait for its end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
