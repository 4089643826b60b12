//! A read-only HDF5 file driver for a file or a part of one: members of a tar archive are read in place, and an error of
//! the system is told as one, while the library only says that it cannot read.
//!
//! Source: HDF5 2.0, H5FDdevelop.h (class version 1). `hdf5-metno-sys` describes an older class, so the one that this
//! version of the library has is written down here.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_uchar, c_uint, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use hdf5_sys::h5fd::{H5FD_mem_t, H5FD_t};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::{h5f, h5p};

use super::error::RecordingError;
use super::h5;
use super::place::Place;
use super::sniff::what_else;
use crate::files::open_regular;

type Haddr = u64;
type Herr = c_int;
const UNDEFINED: Haddr = u64::MAX;
const VERSION: c_uint = 1;
/// Drivers of applications have values from 512 on.
const VALUE: c_int = 517;
/// The most that file addresses may reach.
const MAX_ADDRESS: Haddr = i64::MAX as u64;

type Unused = Option<unsafe extern "C" fn()>;
type Close = unsafe extern "C" fn(*mut H5FD_t) -> Herr;

/// `H5FD_class_t`.
#[repr(C)]
struct Class {
    version: c_uint,
    value: c_int,
    name: *const c_char,
    maxaddr: Haddr,
    fc_degree: c_int,
    terminate: Unused,
    sb_size: Unused,
    sb_encode: Unused,
    sb_decode: Unused,
    fapl_size: usize,
    fapl_get: Unused,
    fapl_copy: Unused,
    fapl_free: Unused,
    dxpl_size: usize,
    dxpl_copy: Unused,
    dxpl_free: Unused,
    open: unsafe extern "C" fn(*const c_char, c_uint, hid_t, Haddr) -> *mut H5FD_t,
    close: Close,
    cmp: unsafe extern "C" fn(*const H5FD_t, *const H5FD_t) -> c_int,
    query: Unused,
    get_type_map: Unused,
    alloc: Unused,
    free: Unused,
    get_eoa: unsafe extern "C" fn(*const H5FD_t, H5FD_mem_t) -> Haddr,
    set_eoa: unsafe extern "C" fn(*mut H5FD_t, H5FD_mem_t, Haddr) -> Herr,
    get_eof: unsafe extern "C" fn(*const H5FD_t, H5FD_mem_t) -> Haddr,
    get_handle: Unused,
    read: unsafe extern "C" fn(*mut H5FD_t, H5FD_mem_t, hid_t, Haddr, usize, *mut c_void) -> Herr,
    write: unsafe extern "C" fn(*mut H5FD_t, H5FD_mem_t, hid_t, Haddr, usize, *const c_void) -> Herr,
    read_vector: Unused,
    write_vector: Unused,
    read_selection: Unused,
    write_selection: Unused,
    flush: Unused,
    truncate: Unused,
    lock: unsafe extern "C" fn(*mut H5FD_t, bool) -> Herr,
    unlock: unsafe extern "C" fn(*mut H5FD_t) -> Herr,
    del: Unused,
    ctl: Unused,
    fl_map: [c_int; 7],
}

/// A file that the driver has open. The library's own part, `H5FD_t`, comes first: ten members of at most 8 bytes.
#[repr(C)]
struct Part {
    public: [u64; 16],
    file: File,
    device_and_inode: (u64, u64),
    offset: u64,
    bytes: u64,
    end_of_addresses: Haddr,
}

thread_local! {
    /// The last error of the system under a call of the library.
    static FAILED: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Calls `f`, which uses the library on this thread. Where the system failed meanwhile, that is the error, whatever the
/// library made of it.
pub(crate) fn watched<T>(path: &Path, f: impl FnOnce() -> Result<T, RecordingError>) -> Result<T, RecordingError> {
    FAILED.set(None);
    let result = f();
    match FAILED.take() {
        Some(libc::EWOULDBLOCK) => Err(RecordingError::Locked { path: path.to_owned() }),
        Some(code) => Err(RecordingError::io(path, std::io::Error::from_raw_os_error(code))),
        None => result,
    }
}

fn noted<T>(result: std::io::Result<T>) -> Option<T> {
    result.inspect_err(|error| FAILED.set(Some(error.raw_os_error().unwrap_or(libc::EIO)))).ok()
}

/// The library gives a driver one string to open: `OFFSET:BYTES:PATH`, without bytes for a whole file.
fn name_of(place: &Place) -> Option<CString> {
    let path = place.path.as_os_str().as_encoded_bytes();
    let part = place.member.as_ref().map_or("0::".to_owned(), |member| format!("{}:{}:", member.offset, member.bytes));
    CString::new([part.as_bytes(), path].concat()).ok()
}

fn open_named(name: &[u8]) -> Option<Part> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let mut parts = name.splitn(3, |byte| *byte == b':');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (offset, bytes) = (text()?.parse().ok()?, text()?);
    let path = Path::new(std::ffi::OsStr::from_bytes(parts.next()?));
    let file = noted(open_regular(path))?;
    let stat = noted(file.metadata())?;
    let bytes = if bytes.is_empty() { stat.len() } else { bytes.parse().ok()? };
    let device_and_inode = (stat.dev(), stat.ino());
    Some(Part { public: [0; 16], file, device_and_inode, offset, bytes, end_of_addresses: 0 })
}

// SAFETY of all callbacks: the library calls them with pointers that `open` gave it, until `close`; their signatures
// are those of its header. None of them unwinds.

unsafe extern "C" fn open_part(name: *const c_char, flags: c_uint, _: hid_t, _: Haddr) -> *mut H5FD_t {
    if name.is_null() || flags & (h5f::H5F_ACC_RDWR | h5f::H5F_ACC_TRUNC | h5f::H5F_ACC_CREAT) != 0 {
        return std::ptr::null_mut();
    }
    // SAFETY: a string that ends with 0, by the library's contract.
    let name = unsafe { std::ffi::CStr::from_ptr(name) };
    open_named(name.to_bytes()).map_or(std::ptr::null_mut(), |part| Box::into_raw(Box::new(part)).cast())
}

unsafe extern "C" fn close(part: *mut H5FD_t) -> Herr {
    // SAFETY: `open` made it by Box::into_raw, and the library closes a file once.
    drop(unsafe { Box::from_raw(part.cast::<Part>()) });
    0
}

/// Two files are one if they are the same part of the same file.
unsafe extern "C" fn cmp(a: *const H5FD_t, b: *const H5FD_t) -> c_int {
    // SAFETY: see above.
    let (a, b) = unsafe { (&*a.cast::<Part>(), &*b.cast::<Part>()) };
    let identity = |part: &Part| (part.device_and_inode, part.offset, part.bytes);
    identity(a).cmp(&identity(b)) as c_int
}

unsafe extern "C" fn get_eoa(part: *const H5FD_t, _: H5FD_mem_t) -> Haddr {
    // SAFETY: see above.
    unsafe { (*part.cast::<Part>()).end_of_addresses }
}

unsafe extern "C" fn set_eoa(part: *mut H5FD_t, _: H5FD_mem_t, address: Haddr) -> Herr {
    // SAFETY: see above.
    unsafe { (*part.cast::<Part>()).end_of_addresses = address };
    0
}

unsafe extern "C" fn get_eof(part: *const H5FD_t, _: H5FD_mem_t) -> Haddr {
    // SAFETY: see above.
    unsafe { (*part.cast::<Part>()).bytes }
}

/// Bytes behind the end read as zeros, as the library's own drivers have it.
unsafe extern "C" fn read(
    part: *mut H5FD_t,
    _: H5FD_mem_t,
    _: hid_t,
    address: Haddr,
    size: usize,
    buffer: *mut c_void,
) -> Herr {
    // SAFETY: see above; the buffer has `size` bytes, which may not be initialized and are zeroed first.
    let (part, buffer) = unsafe {
        buffer.cast::<c_uchar>().write_bytes(0, size);
        (&*part.cast::<Part>(), std::slice::from_raw_parts_mut(buffer.cast::<c_uchar>(), size))
    };
    if address == UNDEFINED {
        return -1;
    }
    let there = part.bytes.saturating_sub(address).min(size as u64) as usize;
    let Some(start) = part.offset.checked_add(address) else { return -1 };
    match part.file.read_exact_at(&mut buffer[..there], start) {
        Ok(()) => 0,
        // It became shorter, which is for the caller to notice.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => -1,
        Err(error) => noted::<Herr>(Err(error)).unwrap_or(-1),
    }
}

/// Takes a shared lock, as the library's own driver does: who writes a file holds an exclusive one. A file system without
/// locks has none to respect.
unsafe extern "C" fn lock(part: *mut H5FD_t, _: bool) -> Herr {
    use rustix::fs::{FlockOperation, flock};
    // SAFETY: see above.
    let part = unsafe { &*part.cast::<Part>() };
    match flock(&part.file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => noted::<Herr>(Err(rustix::io::Errno::WOULDBLOCK.into())).unwrap_or(-1),
        _ => 0,
    }
}

unsafe extern "C" fn unlock(part: *mut H5FD_t) -> Herr {
    // SAFETY: see above.
    let part = unsafe { &*part.cast::<Part>() };
    let _ = rustix::fs::flock(&part.file, rustix::fs::FlockOperation::NonBlockingUnlock);
    0
}

unsafe extern "C" fn write(_: *mut H5FD_t, _: H5FD_mem_t, _: hid_t, _: Haddr, _: usize, _: *const c_void) -> Herr {
    -1
}

/// The driver's id, registered once for the process.
fn driver() -> hid_t {
    static DRIVER: OnceLock<hid_t> = OnceLock::new();
    *DRIVER.get_or_init(|| {
        let class = Box::new(Class {
            version: VERSION,
            value: VALUE,
            name: c"emg_part".as_ptr(),
            maxaddr: MAX_ADDRESS,
            // H5F_CLOSE_WEAK.
            fc_degree: 1,
            terminate: None,
            sb_size: None,
            sb_encode: None,
            sb_decode: None,
            fapl_size: 0,
            fapl_get: None,
            fapl_copy: None,
            fapl_free: None,
            dxpl_size: 0,
            dxpl_copy: None,
            dxpl_free: None,
            open: open_part,
            close,
            cmp,
            query: None,
            get_type_map: None,
            alloc: None,
            free: None,
            get_eoa,
            set_eoa,
            get_eof,
            get_handle: None,
            read,
            write,
            read_vector: None,
            write_vector: None,
            read_selection: None,
            write_selection: None,
            flush: None,
            truncate: None,
            lock,
            unlock,
            del: None,
            ctl: None,
            fl_map: [0; 7],
        });
        // SAFETY: the class has the library's layout and lives for ever; the library is entered under its lock.
        hdf5::sync::sync(|| unsafe { hdf5_sys::h5fd::H5FDregister(Box::leak(class) as *const Class as *const _) })
    })
}

/// Opens a recording's file, or an archive's member, read-only.
///
/// # Errors
/// It is no HDF5 file, or the library refuses the driver.
pub(crate) fn open(place: &Place, chunk_cache: usize) -> Result<hdf5::File, RecordingError> {
    let failed = |message: &str| RecordingError::Hdf5 { path: place.label(), message: message.into() };
    let name = name_of(place).ok_or_else(|| failed("its path cannot be passed to the HDF5 library"))?;
    let driver = driver();
    // SAFETY: all ids are checked before use and closed after; the string outlives the calls; the library is entered
    // under its lock.
    let id = hdf5::sync::sync(|| unsafe {
        let access = h5p::H5Pcreate(*h5p::H5P_CLS_FILE_ACCESS);
        let ready = access >= 0
            && driver >= 0
            && h5p::H5Pset_driver(access, driver, std::ptr::null()) >= 0
            && h5p::H5Pset_cache(access, 0, 12_421, chunk_cache, 0.75) >= 0;
        let id = if ready { h5f::H5Fopen(name.as_ptr(), h5f::H5F_ACC_RDONLY, access) } else { -1 };
        let failure = (id < 0).then(h5::failure);
        if access >= 0 {
            h5p::H5Pclose(access);
        }
        failure.map_or(Ok(id), Err)
    });
    let id = id.map_err(|error| match what_else(place) {
        Some(found) => RecordingError::missing(&place.label(), "input", "an HDF5 file", found),
        None => RecordingError::hdf5(&place.label(), &error),
    })?;
    // SAFETY: a file's id that was just opened and is owned by nobody else.
    hdf5::sync::sync(|| unsafe { hdf5::from_id::<hdf5::File>(id) }).map_err(|error| failed(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::place::Member;
    use crate::recording::write_fixture;

    #[test]
    fn a_part_of_a_file_is_read_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain.hdf5");
        write_fixture(&plain, 300, |row, column| (row * 100 + column) as f32);
        let bytes = std::fs::read(&plain).unwrap();
        let archive = folder.path().join("archive");
        std::fs::write(&archive, [&[7u8; 1536][..], &bytes, &[9; 700]].concat()).unwrap();
        let member =
            |offset, bytes| Place { path: archive.clone(), member: Some(Member { name: "m".into(), offset, bytes }) };
        let file = open(&member(1536, bytes.len() as u64), 1 << 20).unwrap();
        let names = file.group("emg2pose").unwrap().member_names().unwrap();
        assert_eq!(names, ["timeseries"]);
        assert_eq!(file.dataset("emg2pose/timeseries").unwrap().shape(), [300]);
        assert!(open(&member(1024, bytes.len() as u64), 1 << 20).is_err());
        // Cut short, its header reaches beyond the end.
        assert!(open(&member(1536, 1000), 1 << 20).is_err());
    }
}
