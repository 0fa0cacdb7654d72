//! Becoming, and staying, a member of the colony.
//!
//! Registering again sends the processes that the executor runs back to waiting. So an executor first tries to go on with
//! its key, and registers only when it is told that it is no member.

use super::Host;
use super::now_ms;
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
use crate::executor::machine;
use std::sync::PoisonError;
use std::time::Duration;

/// Functions that processes may name.
const FUNCTIONS: [&str; 2] = ["execute", "sync"];
/// Pause while somebody has to approve the executor by hand, or the server cannot be reached.
const PAUSE: Duration = Duration::from_secs(3);

/// Pause before a membership that was taken away is looked at again.
const SHORT_PAUSE: Duration = Duration::from_millis(300);
/// Registered more often than this within this time, the name is contested. Who comes new gives up before who is at work.
const CONTESTS_NEW: usize = 2;
const CONTESTS_AT_WORK: usize = 8;
const CONTEST_MS: i64 = 10 * 60 * 1000;

/// How the server sees us.
enum Standing {
    Approved(Box<Executor>),
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
            self.contact.turned();
            let step = match self.standing().await {
                Ok(Standing::Approved(known)) => match self.settle(&known).await {
                    Ok(()) => return Ok(()),
                    failed => failed,
                },
                Ok(Standing::Pending) => self.be_approved().await,
                Ok(Standing::Unknown) => self.be_added().await,
                Err(error) => Err(error),
            };
            match step {
                Ok(()) => {}
                Err(Error::Colony { source, .. }) if source.is_temporary() => {
                    tracing::warn!(executor = self.name, error = %source, "the colony cannot be reached");
                    self.contact.failed(&source);
                    tokio::time::sleep(PAUSE).await;
                }
                // Taken away between two calls, perhaps by whoever registers the name, too.
                Err(Error::Colony { source, .. }) if source.is_not_member() => {
                    self.contact.failed(&source);
                    tokio::time::sleep(SHORT_PAUSE).await;
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
        Ok(match ours.map(|e| (e.state, e)) {
            Some((EXECUTOR_APPROVED, known)) => Standing::Approved(Box::new(known.clone())),
            Some((EXECUTOR_PENDING, _)) => Standing::Pending,
            _ => Standing::Unknown,
        })
    }

    /// A member already: what it offers may have changed since it was added.
    async fn settle(&self, known: &Executor) -> Result<(), Error> {
        let now = self.description();
        if known.capabilities != now.capabilities {
            tracing::info!(executor = self.name, "telling what changed in its hardware or software");
            self.client.update_executor(&self.name, &now.capabilities).await.map_err(|e| self.refused(e))?;
        }
        if known.executortype != now.executortype {
            return Err(Error::OtherType { name: self.name.clone(), known: known.executortype.clone(), now: now.executortype });
        }
        if known.locationname != now.locationname {
            tracing::warn!(known.locationname, now.locationname, "the colony knows another place: remove and add the executor");
        }
        self.offer_functions().await
    }

    async fn be_approved(&self) -> Result<(), Error> {
        match &self.owner {
            Some(owner) => owner.approve_executor(&self.name).await.map_err(|e| self.refused(e)),
            None => {
                tracing::warn!(executor = self.name, id = self.client.id(), "waiting to be approved by the colony's owner");
                self.contact.failed(&"waiting to be approved by the colony's owner");
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
        }
    }

    async fn be_added(&self) -> Result<(), Error> {
        let Some(owner) = &self.owner else {
            let (name, colony, id) = (self.name.clone(), self.client.colony().into(), self.client.id().into());
            return Err(Error::NotMember { name, colony, id });
        };
        if self.is_contested() {
            return Err(Error::NameTaken { name: self.name.clone() });
        }
        tracing::info!(executor = self.name, "registering");
        match owner.add_executor(&self.description()).await {
            Ok(_) => self.approve_new(owner).await,
            Err(e) if e.status() == Some(400) && e.to_string().contains("already exists") => {
                // The answer of an earlier try may have been lost: then approving is all that is missing. If it is
                // somebody else's name, we are no member after it either.
                self.approve_new(owner).await?;
                match self.standing().await? {
                    Standing::Approved(_) => Ok(()),
                    _ => Err(Error::NameTaken { name: self.name.clone() }),
                }
            }
            Err(e) if e.status() == Some(403) => Err(Error::NotOwner { colony: self.client.colony().into(), source: e }),
            Err(e) => Err(self.refused(e)),
        }
    }

    /// Whether it was registered so often of late that somebody else must be registering the name, too: some servers let whoever
    /// has the owner's key take a name over, and two would take it from each other for ever.
    fn is_contested(&self) -> bool {
        let mut times = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_ms();
        times.retain(|at| now - at < CONTEST_MS);
        times.push(now);
        let is_new = self.contact.known().heard.is_none();
        times.len() > if is_new { CONTESTS_NEW } else { CONTESTS_AT_WORK }
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

    /// As it was described, completed by what can be seen of this machine where the jobs run on it.
    fn hardware(&self) -> Hardware {
        let mut hardware = self.described.hardware.clone();
        let here = matches!(self.backend, "process" | "container");
        let fill = |field: &mut String, found: Option<String>| {
            if let (true, Some(found)) = (field.is_empty(), found) {
                *field = found;
            }
        };
        let cores = here.then(machine::cores);
        let millis = self.capacity.cpu_millis.or(cores.map(|n| n * 1000));
        fill(&mut hardware.cpu, millis.map(|m| format!("{m}m")));
        let mem = self.capacity.mem_mib.or_else(|| machine::memory_mib().filter(|_| here));
        fill(&mut hardware.mem, mem.map(|m| format!("{m}Mi")));
        fill(&mut hardware.model, here.then(|| std::env::consts::ARCH.into()));
        fill(&mut hardware.platform, here.then(|| std::env::consts::OS.into()));
        fill(&mut hardware.architecture, here.then(|| std::env::consts::ARCH.into()));
        hardware.nodes = hardware.nodes.max(1);
        if let (0, Some(cores)) = (hardware.cores, cores) {
            hardware.cores = cores as i64;
        }
        let seen = machine::gpus().filter(|_| here);
        if let (0, Some(gpus)) = (hardware.gpu.count, self.capacity.gpus.or(seen.as_ref().map(|(count, _)| *count))) {
            hardware.gpu.count = i64::from(gpus);
        }
        fill(&mut hardware.gpu.name, seen.map(|(_, model)| model));
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
