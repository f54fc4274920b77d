"""What all tests need to be true of the process that runs them."""

import signal

# A shell that starts the tests in the background lets them ignore Ctrl-C; the runs that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
