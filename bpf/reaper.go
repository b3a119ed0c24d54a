package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// reapRounds bounds how often one Reap looks while it ends some. The kernel may step over sockets when others are closed in
// the middle of a walk, and of those with the same addresses it ends one at a time.
const reapRounds = 64

// A Reaper ends connected UDP sockets whose backend serves the frontend they were opened to no more, in every network
// namespace. Their next call fails with ECONNABORTED, and they are not connected any longer. TCP connections are left
// alone, as kube-proxy leaves them (reference row G3). Methods are not safe for concurrent use.
type Reaper struct {
	objs     reapPrograms
	iterator *link.Iter
	open     func(inode uint64) (*os.File, error)
}

// A Reaped is what came of a Reap.
type Reaped struct {
	// Ended is how many sockets were ended.
	Ended int
	// Left are the backends of those that could not be.
	Left []netip.AddrPort
}

// NewReaper makes a Reaper. It needs the kernel's own BTF and iterators over socket storage (5.9). With open the Reaper
// gets at a network namespace by its inode number.
func (d *Datapath) NewReaper(open func(inode uint64) (*os.File, error)) (_ *Reaper, err error) {
	spec, err := loadReap()
	if err != nil {
		return nil, err
	}
	resize(spec, d.cfg)
	if err := d.cfg.set(spec, nil); err != nil {
		return nil, err
	}
	r := &Reaper{open: open}
	o := &d.objs
	err = spec.LoadAndAssign(&r.objs, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		reapMapFrontends: o.Frontends, reapMapRecords: o.Records, reapMapBlocks: o.Blocks,
		reapMapNodeAddresses: o.NodeAddresses,
		// Not used, but not to be made again.
		reapMapDnsAnswers: o.DnsAnswers, reapMapDnsLarge: o.DnsLarge, reapMapDnsZone: o.DnsZone, reapMapDnsCounts: o.DnsCounts,
	}})
	if err != nil {
		return nil, fmt.Errorf("load the reaper: %w", err)
	}
	if r.iterator, err = link.AttachIter(link.IterOptions{Program: r.objs.Stranded, Map: o.SocketPins}); err != nil {
		return nil, errors.Join(fmt.Errorf("attach the reaper to sockets: %w", err), r.objs.Close())
	}
	return r, nil
}

// Close gives up the Reaper's handles.
func (r *Reaper) Close() error { return errors.Join(r.iterator.Close(), r.objs.Close()) }

// Reap ends the sockets that are connected to a backend none of whose lists has it now. The errors are about those in Left.
func (r *Reaper) Reap() (out Reaped, err error) {
	found, err := r.stranded()
	var endErr error
	for round := 0; err == nil && len(found) > 0 && round < reapRounds; round++ {
		var ended int
		ended, endErr = r.end(found)
		out.Ended += ended
		if found, err = r.stranded(); ended == 0 {
			break
		}
	}
	for _, s := range found {
		out.Left = append(out.Left, s.backend())
	}
	slices.SortFunc(out.Left, netip.AddrPort.Compare)
	out.Left = slices.Compact(out.Left)
	if err == nil && len(out.Left) > 0 {
		err = endErr
	}
	return out, err
}

type strandedSocket reapStrandedSocket

func (s strandedSocket) backend() netip.AddrPort { return addrPort(s.Backend, s.BackendPort) }

func (s strandedSocket) String() string {
	return fmt.Sprintf("socket %s -> %s in network namespace %d", addrPort(s.Own, s.OwnPort), s.backend(), s.Netns)
}

// stranded walks over all sockets with pins.
func (r *Reaper) stranded() ([]strandedSocket, error) {
	text, err := r.read()
	if err != nil {
		return nil, fmt.Errorf("look at sockets: %w", err)
	}
	found := make([]strandedSocket, len(text)/binary.Size(strandedSocket{}))
	if err := binary.Read(bytes.NewReader(text), binary.NativeEndian, found); err != nil {
		return nil, fmt.Errorf("read what was seen of sockets: %w", err)
	}
	return found, nil
}

// read gives what the iterator writes. EAGAIN is the kernel's way to say that it has looked at a million sockets without
// a find; the next call goes on.
func (r *Reaper) read() (text []byte, err error) {
	it, err := r.iterator.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	buf := make([]byte, 1<<15) // what the kernel collects at a time
	for {
		n, err := it.Read(buf)
		text = append(text, buf[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			return text, nil
		case err != nil && !errors.Is(err, unix.EAGAIN):
			return nil, err
		}
	}
}

// end ends sockets and says how many it did end. Those that have ended by themselves meanwhile are not counted.
func (r *Reaper) end(found []strandedSocket) (ended int, err error) {
	byNetNS := map[uint32][]strandedSocket{}
	for _, s := range found {
		byNetNS[s.Netns] = append(byNetNS[s.Netns], s)
	}
	var errs []error
	for inode, sockets := range byNetNS {
		n, err := r.endIn(inode, sockets)
		ended += n
		errs = append(errs, err)
	}
	return ended, errors.Join(errs...)
}

func (r *Reaper) endIn(inode uint32, sockets []strandedSocket) (ended int, err error) {
	netns, err := r.open(uint64(inode))
	if err != nil {
		return 0, fmt.Errorf("end %s: %w", sockets[0], err)
	}
	defer func() { err = errors.Join(err, netns.Close()) }()
	diag, err := openDiag(netns)
	if err != nil {
		return 0, fmt.Errorf("end %s: %w", sockets[0], err)
	}
	defer func() { err = errors.Join(err, diag.close()) }()
	return endEach(sockets, diag.destroy)
}

// endEach goes on after a failure: the others may be ended. What fails the same way again is told once.
func endEach(sockets []strandedSocket, destroy func(strandedSocket) error) (ended int, err error) {
	var errs []error
	told := map[string]bool{}
	for _, s := range sockets {
		err := destroy(s)
		if err == nil {
			ended++
		} else if !errors.Is(err, unix.ENOENT) && !told[err.Error()] {
			told[err.Error()] = true
			errs = append(errs, fmt.Errorf("end %s: %w", s, err))
		}
	}
	return ended, errors.Join(errs...)
}
