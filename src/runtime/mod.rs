//! The event loop: io_uring, epoll and sim back ends, tasks, timers, mailboxes. [unsafe room 2]
