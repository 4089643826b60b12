//! Which kernels a GPU spends its time on, by NVIDIA's profiling interface (CUPTI, `libcupti.so.13`, which PyTorch's
//! packages bring), also inside captured graphs.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Mutex;

use cudarc::cupti::result::activity;
use cudarc::cupti::sys::{self, CUpti_ActivityKind};

const KIND: CUpti_ActivityKind = CUpti_ActivityKind::CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;

fn buffer() -> Layout {
    Layout::from_size_align(8 << 20, 8).expect("a power of two")
}

/// (name, start and end in nanoseconds) of every kernel that has run.
static RECORDS: Mutex<Vec<(String, u64, u64)>> = Mutex::new(Vec::new());

unsafe extern "C" fn requested(pointer: *mut *mut u8, size: *mut usize, most: *mut usize) {
    // SAFETY: CUPTI asks for a buffer by valid pointers.
    unsafe { (*pointer, *size, *most) = (alloc(buffer()), buffer().size(), 0) }
}

unsafe extern "C" fn completed(_: cudarc::driver::sys::CUcontext, _: u32, pointer: *mut u8, _: usize, valid: usize) {
    let mut records = RECORDS.lock().expect("no panic before");
    let mut record = std::ptr::null_mut();
    // SAFETY: the buffer is one that `requested` gave, and CUPTI says how much of it is valid; a record's kind says of
    // which type it is.
    unsafe {
        while sys::cuptiActivityGetNextRecord(pointer, valid, &raw mut record) == sys::CUptiResult::CUPTI_SUCCESS {
            if (*record).kind == KIND {
                let kernel = &*record.cast::<sys::CUpti_ActivityKernel9>();
                let (name, start, end) = (CStr::from_ptr(kernel.name), kernel.start, kernel.end);
                records.push((name.to_string_lossy().into_owned(), start, end));
            }
        }
        dealloc(pointer, buffer());
    }
}

/// Starts recording.
pub(crate) fn start() {
    // SAFETY: both functions live as long as the process.
    let registered = unsafe { sys::cuptiActivityRegisterCallbacks(Some(requested), Some(completed)) };
    assert_eq!(registered, sys::CUptiResult::CUPTI_SUCCESS);
    activity::enable(KIND).expect("CUPTI");
}

/// Ends recording; prints, for each kernel, microseconds and launches a step, and the time in which none ran.
pub(crate) fn print(steps: usize) {
    // SAFETY: no pointer is involved.
    assert_eq!(unsafe { sys::cuptiActivityFlushAll(1) }, sys::CUptiResult::CUPTI_SUCCESS);
    let mut records = RECORDS.lock().expect("no panic before");
    records.sort_by_key(|(_, start, _)| *start);
    let mut by_name: HashMap<&str, (u64, usize)> = HashMap::new();
    let (mut busy, mut reached) = (0, 0);
    for (name, start, end) in records.iter() {
        let sum = by_name.entry(name).or_default();
        *sum = (sum.0 + end - start, sum.1 + 1);
        busy += end.saturating_sub(reached.max(*start));
        reached = reached.max(*end);
    }
    let wall = records.first().map_or(0, |(_, start, _)| reached - start);
    let mut list: Vec<_> = by_name.into_iter().collect();
    list.sort_by_key(|(_, (time, _))| std::cmp::Reverse(*time));
    let each = |nanoseconds: u64| nanoseconds as f64 / 1e3 / steps as f64;
    eprintln!("{:10.0} us a step with a kernel, of {:.0} from first to last", each(busy), each(wall));
    for (name, (time, launches)) in list {
        eprintln!("{:10.1} us {:8.1} x {}", each(time), launches as f64 / steps as f64, name);
    }
}
