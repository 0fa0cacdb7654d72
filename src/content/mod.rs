//! Pure content addressing: digests of bytes. No I/O, no clock.
