//! Errors of the system that pass by themselves.

use std::io::Error;
use std::io::ErrorKind;

/// Whether the same may succeed later though nobody changed anything: the machine was out of something, or a file server was away.
pub fn is_passing(error: &Error) -> bool {
    const PASSING: [i32; 15] = [
        libc::EAGAIN,
        libc::EBUSY,
        libc::EINTR,
        libc::EIO,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::ENOLCK,
        libc::ENOTCONN,
        libc::ESHUTDOWN,
        libc::EHOSTDOWN,
        libc::ESTALE,
        libc::ETIMEDOUT,
        libc::ETXTBSY,
    ];
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
}

/// Whether there is no room on a disk, or no more of it for this user.
pub fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes() {
        for code in [libc::EIO, libc::ESTALE, libc::EMFILE, libc::EAGAIN] {
            assert!(is_passing(&Error::from_raw_os_error(code)));
        }
        for code in [libc::ENOENT, libc::EACCES, libc::ENOSPC, libc::ENOTDIR, libc::EROFS] {
            assert!(!is_passing(&Error::from_raw_os_error(code)));
        }
        assert!(is_full(&Error::from_raw_os_error(libc::EDQUOT)));
        assert!(!is_full(&Error::other("no space left on device")) && !is_passing(&Error::other("text")));
    }
}
