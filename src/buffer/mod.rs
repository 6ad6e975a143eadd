//! Memory the kernel may touch: chunk pools and queues of chunks. [unsafe room 1]
