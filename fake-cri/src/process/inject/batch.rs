//! Lists of calls, each made by a thread on its own.
//!
//! ```text
//!   area    program | call 0, its answer | call 1, its answer | ... | end | calls of a copy, their answers | end
//!
//!   begin   list and program are written; the thread runs through it         the tracer does something else
//!   end     the thread is at the list's end, where it yields the processor,
//!           then sleeps until it is interrupted; or stands behind a clone, the last call
//! ```
//!
//! Between two stops a thread sleeps and its tracer has to be woken, which takes most machines many times as long as a short
//! call. A thread that is led from call to call so keeps its container standing for longer than all of the calls take; and nothing
//! else can be done meanwhile. The area is memory that the thread maps for this, to be written and executed. Where such memory is
//! refused (a security module, `PR_SET_MDWE`), and on architectures for which there is no program, each call is led, and only the
//! last one is under way between begin and end.
//!
//! A copy that the last call of the list makes has the area too, and goes on with its own part of the list.

use std::{io, slice, time::Duration};

use nix::errno::Errno;

use super::{InjectError, Injection, Place, SUSPEND_SECCOMP, Wait, await_stop, kernel, machine, result};
use crate::process::{
    memory::Memory,
    ptrace::{self, RegisterSet, Stop},
};

/// The words of an entry: number, six arguments, result, and those of the answer.
const WORDS: usize = 16;
const ENTRY: u64 = WORDS as u64 * 8;
/// The place of the result among them, and of the answer.
const RESULT: usize = 7;
const ANSWER: usize = 8;
/// The number in the entry that ends a list.
const END: u64 = u64::MAX;
const NO_WORDS: [u64; WORDS - ANSWER] = [0; WORDS - ANSWER];
/// How often a thread yields at its list's end before it sleeps: about a millisecond. One that sleeps is woken late where a
/// processor without work is halted; but a real-time thread yields to nobody, and a tracer may be gone.
const PATIENCE: u64 = 1 << 12;
/// How long a fork is waited for before it is looked whether it was refused: looking waits for the fork.
const FORK: Duration = Duration::from_millis(1);

/// One call of a list.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    number: i64,
    arguments: [u64; 6],
    answers_by: Option<usize>,
    /// What stands where it writes its answer.
    given: [u64; 2],
}

impl Call {
    /// A call whose result says all.
    pub(crate) fn new(number: i64, arguments: [u64; 6]) -> Self {
        Self {
            number,
            arguments,
            answers_by: None,
            given: [0; 2],
        }
    }

    /// A call that writes its answer to where the nth argument points, which is put in when the list is made.
    pub(crate) fn answering(number: i64, arguments: [u64; 6], nth: usize) -> Self {
        Self {
            answers_by: Some(nth),
            ..Self::new(number, arguments)
        }
    }

    /// A call that reads these words from where the nth argument points, which is put in when the list is made.
    pub(crate) fn given(number: i64, arguments: [u64; 6], nth: usize, words: [u64; 2]) -> Self {
        Self {
            given: words,
            ..Self::answering(number, arguments, nth)
        }
    }

    fn placed(&self, place: u64) -> [u64; 6] {
        let mut arguments = self.arguments;
        if let Some(argument) = self.answers_by.and_then(|nth| arguments.get_mut(nth)) {
            *argument = place;
        }
        arguments
    }
}

/// What a call of a list answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its result.
    pub(crate) result: nix::Result<u64>,
    /// What it wrote, if it writes anything and succeeded.
    pub(crate) words: [u64; WORDS - ANSWER],
}

/// Memory that a thread mapped for lists and answers.
#[derive(Debug)]
pub(crate) struct Area {
    address: u64,
    /// Of the thread that mapped it, or of a copy that has it too.
    memory: Memory,
    /// Whether the program can run in it.
    runs: bool,
}

impl Area {
    const SIZE: u64 = 32 << 10;
    /// How many calls fit in: the program and two ends take an entry each.
    pub(crate) const ROOM: usize = (Self::SIZE / ENTRY) as usize - 3;

    /// Has a thread map one. The inner error is the kernel's.
    ///
    /// # Errors
    ///
    /// As [`Injection::call`].
    pub(crate) fn map(injection: &mut Injection) -> Result<nix::Result<Self>, InjectError> {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let written = libc::PROT_READ | libc::PROT_WRITE;
        let mut map = |access: i32| {
            let arguments = [0, Self::SIZE, access as u64, flags, u64::MAX, 0];
            injection.call(libc::SYS_mmap, arguments)
        };
        let mapped = match machine::PROGRAM {
            Some(_) => map(written | libc::PROT_EXEC)?,
            None => Err(Errno::ENOSYS),
        };
        let (address, runs) = match mapped {
            Ok(address) => (address, true),
            Err(_) => match map(written)? {
                Ok(address) => (address, false),
                Err(errno) => return Ok(Err(errno)),
            },
        };
        Ok(Ok(Self {
            address,
            memory: Memory::of(injection.tid),
            runs,
        }))
    }

    /// The same of a copy of the process.
    pub(crate) fn of_copy(&self, copy: i32) -> Self {
        Self {
            address: self.address,
            memory: Memory::of(copy),
            runs: self.runs,
        }
    }

    /// Has a thread unmap it.
    ///
    /// # Errors
    ///
    /// As [`Injection::call`].
    pub(crate) fn unmap(self, injection: &mut Injection) -> Result<nix::Result<u64>, InjectError> {
        injection.call(libc::SYS_munmap, [self.address, Self::SIZE, 0, 0, 0, 0])
    }

    /// Has each call be led, as where memory may not be executed.
    #[cfg(test)]
    pub(crate) fn lead(&mut self) {
        self.runs = false;
    }

    /// Whether lists are gone through without a tracer's lead.
    pub(crate) fn runs(&self) -> bool {
        self.runs
    }

    /// Where the nth entry is.
    fn entry(&self, nth: usize) -> u64 {
        self.address + (nth as u64 + 1) * ENTRY
    }

    /// Where its answer is written.
    fn answer(&self, nth: usize) -> u64 {
        self.entry(nth) + ANSWER as u64 * 8
    }

    fn words(&mut self, nth: usize, count: usize) -> Result<Vec<u64>, InjectError> {
        let start = self.entry(nth);
        let mut bytes = vec![0; count * ENTRY as usize];
        let range = start..start + bytes.len() as u64;
        self.memory
            .read(slice::from_ref(&range), &mut bytes, |_| {})
            .map_err(|_| InjectError::Ended)?;
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
        Ok(bytes.chunks_exact(8).map(word).collect())
    }

    fn answers(&mut self, first: usize, count: usize) -> Result<Vec<Answer>, InjectError> {
        let words = self.words(first, count)?;
        let answer = |entry: &[u64]| Answer {
            result: result(entry[RESULT]),
            words: entry[ANSWER..].try_into().expect("the rest of an entry"),
        };
        Ok(words.chunks_exact(WORDS).map(answer).collect())
    }

    /// Whether the list that ends at the nth entry was gone through.
    fn is_through(&mut self, nth: usize) -> Result<bool, InjectError> {
        Ok(self.words(nth, 1)?[RESULT] != 0)
    }

    /// Writes the program and both lists.
    fn write(&mut self, program: &[u8], calls: &[Call], of_copy: &[Call]) -> Result<(), InjectError> {
        debug_assert!(calls.len() + of_copy.len() <= Self::ROOM);
        let mut bytes = program.to_vec();
        bytes.resize(ENTRY as usize, 0);
        let lists = [calls, of_copy];
        let entries = lists.iter().flat_map(|list| list.iter().map(Some).chain([None]));
        for (nth, call) in entries.enumerate() {
            let mut words = [0; WORDS];
            words[0] = call.map_or(END, |call| call.number.cast_unsigned());
            if let Some(call) = call {
                words[1..RESULT].copy_from_slice(&call.placed(self.answer(nth)));
                words[ANSWER..ANSWER + 2].copy_from_slice(&call.given);
            }
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        self.memory.write(self.address, &bytes).map_err(failed)
    }
}

/// An error of writing to a process.
fn failed(error: io::Error) -> InjectError {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) | None => InjectError::Ended,
        Some(errno) => InjectError::Kernel("writing a list of calls", Errno::from_raw(errno)),
    }
}

/// A list that a thread goes through.
#[derive(Debug)]
pub(crate) struct UnderWay {
    calls: Vec<Call>,
    /// Where the list begins in the area.
    first: usize,
    /// Whether the thread goes through it on its own. If not, these are the answers to all calls but the last one.
    alone: bool,
    led: Vec<Answer>,
}

impl Injection {
    /// Has the thread make calls, and lets it do so. A call that writes needs an area. `of_copy` are what a copy makes that the
    /// last call makes: [`Self::follow`]. There is room for [`Area::ROOM`] of them.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub(crate) fn begin(
        &mut self,
        area: Option<&mut Area>,
        calls: Vec<Call>,
        of_copy: &[Call],
    ) -> Result<UnderWay, InjectError> {
        let mut under_way = UnderWay {
            calls,
            first: 0,
            alone: false,
            led: Vec::new(),
        };
        match (area, machine::PROGRAM) {
            (Some(area), Some(program)) if area.runs && !under_way.calls.is_empty() => {
                if self.place == Place::Running {
                    self.reach_interruption()?;
                }
                area.write(program, &under_way.calls, of_copy)?;
                let (list, list_of_copy) = (area.entry(0), area.entry(under_way.calls.len() + 1));
                let registers = machine::registers_of_program(&self.home, area.address, list, list_of_copy, PATIENCE);
                ptrace::set_registers(self.tid, RegisterSet::General, &registers)
                    .map_err(kernel("setting registers"))?;
                self.go_on(0)?;
                under_way.alone = true;
            }
            (area, _) => self.lead(area, &mut under_way)?,
        }
        Ok(under_way)
    }

    /// Leads the thread through all calls but the last one, and into that.
    fn lead(&mut self, area: Option<&mut Area>, under_way: &mut UnderWay) -> Result<(), InjectError> {
        let Some((last, others)) = under_way.calls.split_last() else {
            return Ok(());
        };
        let place = |nth| area.as_ref().map_or(0, |area| area.answer(nth));
        for (nth, call) in others.iter().enumerate() {
            let result = self.call(call.number, call.placed(place(under_way.first + nth)))?;
            under_way.led.push(Answer {
                result,
                words: NO_WORDS,
            });
        }
        let arguments = last.placed(place(under_way.first + others.len()));
        self.begin_call(last.number, arguments)
    }

    /// Waits until the thread has made its calls; what they answered. It may not stand then: it does for the next call, or when
    /// everything is put back.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub(crate) fn end(&mut self, mut area: Option<&mut Area>, under_way: UnderWay) -> Result<Vec<Answer>, InjectError> {
        let UnderWay {
            calls,
            first,
            alone,
            led: mut answers,
        } = under_way;
        let Some(last) = calls.last() else {
            return Ok(answers);
        };
        let behind = match alone {
            false => Some(self.end_call()?),
            true => {
                let area = area.as_deref_mut().expect("a list that runs alone is in an area");
                self.await_end(area, first + calls.len(), last.number == libc::SYS_clone)?
            }
        };
        let Some(area) = area else {
            answers.extend(behind.map(|result| Answer {
                result,
                words: NO_WORDS,
            }));
            return Ok(answers);
        };
        let mut read = area.answers(first, calls.len())?;
        for (read, led) in read.iter_mut().zip(&answers) {
            read.result = led.result;
        }
        if let (Some(read), Some(result)) = (read.last_mut(), behind) {
            read.result = result;
        }
        Ok(read)
    }

    /// Whether a thread has gone through a list by itself.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(crate) fn is_through(area: &mut Area, under_way: &UnderWay) -> Result<bool, InjectError> {
        area.is_through(under_way.first + under_way.calls.len())
    }

    /// Waits until the list was gone through whose end is the nth entry; what the last call answered when the thread was stopped
    /// behind it.
    fn await_end(
        &mut self,
        area: &mut Area,
        nth: usize,
        clones: bool,
    ) -> Result<Option<nix::Result<u64>>, InjectError> {
        let mut wait = Wait::begin();
        loop {
            match ptrace::next_stop(self.tid).map_err(kernel("wait"))? {
                Some(Stop::Event(event)) => {
                    self.note(event)?;
                    if clones && event == libc::PTRACE_EVENT_CLONE {
                        self.go_on_to_system_call(0)?;
                        return self.end_call().map(Some);
                    }
                    self.go_on(0)?;
                }
                Some(Stop::Interrupted | Stop::SystemCall) => self.go_on(0)?,
                Some(Stop::Signal(libc::SIGSTOP)) => self.go_on(libc::SIGSTOP)?,
                Some(Stop::Signal(signal)) => {
                    self.place = Place::Exit;
                    return Err(InjectError::Signal(signal));
                }
                None if (!clones || wait.began.elapsed() > FORK) && area.is_through(nth)? => return Ok(None),
                None => wait.rest(self.tid)?,
            }
        }
    }

    fn go_on(&mut self, signal: i32) -> Result<(), InjectError> {
        ptrace::resume(self.tid, signal).map_err(kernel("going on"))?;
        self.place = Place::Running;
        Ok(())
    }

    /// A copy that a call of this thread made, and that is traced from its birth: it stands in the middle of that call. Put back,
    /// it has the registers and the mask that this thread had. `PTRACE_O_EXITKILL` is in force for it.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(crate) fn copy(&self, copy: i32) -> Result<Self, InjectError> {
        while await_stop(copy)? != Stop::Interrupted {
            ptrace::resume(copy, 0).map_err(kernel("going on"))?;
        }
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL | self.options & SUSPEND_SECCOMP;
        ptrace::set_options(copy, options).map_err(kernel("options"))?;
        Ok(Self {
            tid: copy,
            gate: self.gate,
            home: self.home.clone(),
            mask: self.mask,
            place: Place::Stopped,
            entered: true,
            options,
            kept: libc::PTRACE_O_EXITKILL,
            events: Vec::new(),
        })
    }

    /// Has a copy make the calls that a list had for it, behind so many of the original's.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub(crate) fn follow(
        &mut self,
        area: Option<&mut Area>,
        behind: usize,
        calls: Vec<Call>,
    ) -> Result<UnderWay, InjectError> {
        let mut under_way = UnderWay {
            calls,
            first: behind + 1,
            alone: area.as_ref().is_some_and(|area| area.runs),
            led: Vec::new(),
        };
        match under_way.alone {
            true => self.go_on(0)?,
            false => self.lead(area, &mut under_way)?,
        }
        Ok(under_way)
    }
}
