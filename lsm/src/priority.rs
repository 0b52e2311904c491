//! Scheduling priority of the calling thread.

/// Puts the calling thread into a lower scheduling class (Unix nice value); never into a higher one. Failing
/// to is no failure.
pub fn lower(nice: i32) {
    #[cfg(target_os = "linux")]
    {
        if self::nice() >= nice {
            return;
        }
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), nice) {
            tracing::debug!(%error, "cannot lower a thread's priority");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

/// The calling thread's nice value; 0 where that cannot be told.
pub(crate) fn nice() -> i32 {
    #[cfg(target_os = "linux")]
    {
        rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or(0)
    }
    #[cfg(not(target_os = "linux"))]
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_thread_is_never_put_into_a_higher_class() {
        let thread = std::thread::spawn(|| {
            [12, 5, 0, 13].map(|nice| {
                super::lower(nice);
                super::nice()
            })
        });
        assert_eq!(thread.join().unwrap(), [12, 12, 12, 13]);
    }
}
