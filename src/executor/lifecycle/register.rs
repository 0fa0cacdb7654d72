//! Becoming, and staying, a member of the colony.
//!
//! Registering again sends the processes that the executor runs back to waiting. So an executor first tries to go on with
//! its key, and registers only when it is told that it is no member.

use super::Host;
use crate::colonies::Capabilities;
use crate::colonies::Client;
use crate::colonies::EXECUTOR_APPROVED;
use crate::colonies::EXECUTOR_PENDING;
use crate::colonies::Error as ColonyError;
use crate::colonies::Executor;
use crate::colonies::Function;
use crate::colonies::Hardware;
use crate::colonies::Software;
use crate::executor::error::Error;
use std::time::Duration;

/// Functions that processes may name.
const FUNCTIONS: [&str; 2] = ["execute", "sync"];
/// Pause while somebody has to approve the executor by hand, or the server cannot be reached.
const PAUSE: Duration = Duration::from_secs(3);

/// How the server sees us.
enum Standing {
    Approved,
    Pending,
    Unknown,
}

impl Host {
    /// Returns once the executor may take processes; registers and approves it where the owner's key is given.
    ///
    /// # Errors
    /// Refusals that waiting cannot mend: no member and no owner's key, the name belongs to another key.
    pub(super) async fn join(&self) -> Result<(), Error> {
        loop {
            let step = match self.standing().await {
                Ok(Standing::Approved) => return self.offer_functions().await,
                Ok(Standing::Pending) => self.be_approved().await,
                Ok(Standing::Unknown) => self.be_added().await,
                Err(error) => Err(error),
            };
            match step {
                Ok(()) => {}
                Err(Error::Colony { source, .. }) if source.is_temporary() => {
                    tracing::warn!(executor = self.name, error = %source, "the colony cannot be reached");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn refused(&self, source: ColonyError) -> Error {
        Error::Colony { name: self.name.clone(), source }
    }

    /// Looks in the list that an executor may read even before it is approved.
    async fn standing(&self) -> Result<Standing, Error> {
        let all = match self.client.executors().await {
            Ok(all) => all,
            Err(e) if e.status() == Some(403) && !wrong_colony(&e) => return Ok(Standing::Unknown),
            Err(e) => return Err(self.refused(e)),
        };
        let ours = all.iter().find(|e| e.executorid == self.client.id() && e.executorname == self.name);
        Ok(match ours.map(|e| e.state) {
            Some(EXECUTOR_APPROVED) => Standing::Approved,
            Some(EXECUTOR_PENDING) => Standing::Pending,
            _ => Standing::Unknown,
        })
    }

    async fn be_approved(&self) -> Result<(), Error> {
        match &self.owner {
            Some(owner) => owner.approve_executor(&self.name).await.map_err(|e| self.refused(e)),
            None => {
                tracing::warn!(executor = self.name, "waiting to be approved by the colony's owner");
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
        }
    }

    async fn be_added(&self) -> Result<(), Error> {
        let Some(owner) = &self.owner else {
            return Err(Error::NotMember { name: self.name.clone(), colony: self.client.colony().into() });
        };
        tracing::info!(executor = self.name, "registering");
        match owner.add_executor(&self.description()).await {
            Ok(_) => self.approve_new(owner).await,
            Err(e) if e.status() == Some(400) && e.to_string().contains("already exists") => {
                // The answer of an earlier try may have been lost: then approving is all that is missing. If it is
                // somebody else's name, we are no member after it either.
                self.approve_new(owner).await?;
                match self.standing().await? {
                    Standing::Approved => Ok(()),
                    _ => Err(Error::NameTaken { name: self.name.clone() }),
                }
            }
            Err(e) => Err(self.refused(e)),
        }
    }

    async fn approve_new(&self, owner: &Client) -> Result<(), Error> {
        owner.approve_executor(&self.name).await.map_err(|e| self.refused(e))
    }

    fn description(&self) -> Executor {
        let software =
            Software { name: "pollinator".into(), kind: self.backend.into(), version: env!("CARGO_PKG_VERSION").into() };
        let software = std::iter::once(software).chain(self.described.software.iter().cloned()).collect();
        // Last heard from stays "never": any other time would make the server think it silent.
        Executor {
            executorid: self.client.id().into(),
            executortype: self.executor_type.clone(),
            executorname: self.name.clone(),
            colonyname: self.client.colony().into(),
            locationname: self.described.location.clone(),
            capabilities: Capabilities { hardware: vec![self.hardware()], software },
            ..Executor::default()
        }
    }

    /// As it was described, completed by what can be seen of this machine.
    fn hardware(&self) -> Hardware {
        let mut hardware = self.described.hardware.clone();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as i64);
        let fill = |field: &mut String, found: String| {
            if field.is_empty() {
                *field = found;
            }
        };
        let millis = self.capacity.cpu_millis.unwrap_or(cores as u64 * 1000);
        fill(&mut hardware.cpu, format!("{millis}m"));
        fill(&mut hardware.mem, self.capacity.mem_mib.or_else(memory_mib).map_or_else(String::new, |m| format!("{m}Mi")));
        fill(&mut hardware.model, std::env::consts::ARCH.into());
        fill(&mut hardware.platform, std::env::consts::OS.into());
        fill(&mut hardware.architecture, std::env::consts::ARCH.into());
        hardware.nodes = hardware.nodes.max(1);
        if hardware.cores == 0 {
            hardware.cores = cores;
        }
        if let (0, Some(gpus)) = (hardware.gpu.count, self.capacity.gpus) {
            hardware.gpu.count = i64::from(gpus);
        }
        hardware
    }

    /// Tells the functions that the server does not know of yet: telling one twice makes two.
    async fn offer_functions(&self) -> Result<(), Error> {
        let known = self.client.functions(&self.name).await.map_err(|e| self.refused(e))?;
        for name in FUNCTIONS.into_iter().filter(|name| !known.iter().any(|f| f.funcname == *name)) {
            let function = Function {
                executorname: self.name.clone(),
                executortype: self.executor_type.clone(),
                colonyname: self.client.colony().into(),
                funcname: name.into(),
                ..Function::default()
            };
            self.client.add_function(&function).await.map_err(|e| self.refused(e))?;
        }
        Ok(())
    }
}

/// 403 too, but nothing that registering would mend.
fn wrong_colony(error: &ColonyError) -> bool {
    let text = error.to_string();
    text.contains("does not exist") || text.contains("signature") || text.contains("not colony owner")
}

/// Memory of this machine, MiB.
fn memory_mib() -> Option<u64> {
    // SAFETY: sysconf reads a number and touches nothing of ours.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let bytes = u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?)?;
    Some(bytes >> 20)
}
