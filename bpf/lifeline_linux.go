package bpf

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// robustList is struct robust_list_head of linux/futex.h with one entry: the lock that the thread holds. The kernel
// reads it when the thread dies (Documentation/locking/robust-futexes.rst).
type robustList struct {
	next    uintptr // of the list, which is a ring: the entry
	offset  uintptr // from an entry to its futex word
	pending uintptr
	entry   uintptr // the entry's next: the head
}

// headSize is what set_robust_list wants to hear: the struct without our entry.
const headSize = 3 * unsafe.Sizeof(uintptr(0))

// HoldDNS steers DNS to the node's listener until ctx ends, and calls held once it does. The listener must serve
// already and should go on serving for the queries that are under way when HoldDNS returns.
//
// If the process dies, however it dies, the kernel ends the steering itself before it does anything else to the
// process: HoldDNS holds a robust futex that lies in a map of the programs.
func (d *Datapath) HoldDNS(ctx context.Context, held func()) error {
	// The lock is the thread's: it must neither end nor serve other goroutines.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Shared, because the OOM reaper may take private pages before the kernel reads the list.
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("hold the DNS lifeline: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	word := (*uint32)(unsafe.Pointer(&d.lifeline[0]))
	list := (*robustList)(unsafe.Pointer(&page[0]))
	head, entry := uintptr(unsafe.Pointer(list)), uintptr(unsafe.Pointer(&list.entry))
	*list = robustList{next: entry, offset: uintptr(unsafe.Pointer(word)) - entry, entry: head}
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, head, headSize, 0); errno != 0 {
		return fmt.Errorf("hold the DNS lifeline: set_robust_list: %w", errno)
	}
	atomic.StoreUint32(word, uint32(unix.Gettid()))
	held()
	<-ctx.Done()
	atomic.StoreUint32(word, 0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, 0, headSize, 0); errno != 0 {
		return fmt.Errorf("let go of the DNS lifeline: set_robust_list: %w", errno)
	}
	return nil
}
