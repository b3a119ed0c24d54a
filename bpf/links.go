package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Role says what a link is to the packet path, and with it which programs it gets.
type Role uint8

const (
	// Uplink is a link of the node that clients outside come by and that its own addresses are on.
	Uplink Role = iota + 1
	// PodLink is a link on the node that leads to pods: a veth's end, or the companion of an ENI.
	PodLink
	// PoolENI is an ENI on the node whose addresses pods on veth have.
	PoolENI
	// IPVlanParent is an ENI whose ipvlan slaves pods have.
	IPVlanParent
	// ExclusiveENI is an ENI that is a pod's, in the pod's network namespace.
	ExclusiveENI
	// Loopback is the node's lo, by which its own sockets ask its DNS.
	Loopback
	// IPVlanSlave is a pod's link on an IPVlanParent, in the pod's network namespace.
	IPVlanSlave
)

func (r Role) String() string {
	switch r {
	case Uplink:
		return "uplink"
	case PodLink:
		return "pod link"
	case PoolENI:
		return "pool ENI"
	case IPVlanParent:
		return "ipvlan parent"
	case ExclusiveENI:
		return "exclusive ENI"
	case Loopback:
		return "loopback"
	case IPVlanSlave:
		return "ipvlan slave"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// A linkProgram is one program of a link and the direction that it sees.
type linkProgram struct {
	name    string
	program *ebpf.Program
	id      ebpf.ProgramID
	egress  bool
}

// linkPrograms are those of each role, not loaded.
var linkPrograms = map[Role][]linkProgram{
	Uplink:       {{name: packetProgFromOutside}, {name: packetProgToOutside, egress: true}},
	PodLink:      {{name: packetProgFromPod}, {name: packetProgToPod, egress: true}},
	PoolENI:      {{name: packetProgFromVpc}},
	IPVlanParent: {{name: packetProgFromVpc}, {name: packetProgToVpc, egress: true}},
	ExclusiveENI: {{name: packetProgEnterPod}, {name: packetProgLeavePod, egress: true}},
	Loopback:     {{name: packetProgToSelf}},
	IPVlanSlave:  {{name: packetProgEnterSlave}, {name: packetProgLeaveSlave, egress: true}},
}

// inPod says whether links of the role are in pods' network namespaces.
func (r Role) inPod() bool { return r == ExclusiveENI || r == IPVlanSlave }

// nameLinkPrograms is called once they are loaded.
func (d *Datapath) nameLinkPrograms() error {
	p := &d.packet
	loaded := map[string]*ebpf.Program{
		packetProgFromOutside: p.FromOutside, packetProgToOutside: p.ToOutside, packetProgFromPod: p.FromPod, packetProgToPod: p.ToPod,
		packetProgFromVpc: p.FromVpc, packetProgToVpc: p.ToVpc, packetProgLeavePod: p.LeavePod,
		packetProgToSelf: p.ToSelf, packetProgLeaveSlave: p.LeaveSlave, packetProgEnterSlave: p.EnterSlave, packetProgEnterPod: p.EnterPod,
	}
	d.programs = map[Role][]linkProgram{}
	for role, list := range linkPrograms {
		programs := slices.Clone(list)
		d.programs[role] = programs
		for i := range programs {
			programs[i].program = loaded[programs[i].name]
			have, err := programs[i].program.Info()
			if err != nil {
				return fmt.Errorf("look at %s: %w", programs[i].name, err)
			}
			programs[i].id, _ = have.ID()
		}
	}
	return nil
}

// AttachLink puts the programs of a role on a link of the calling thread's network namespace. A program that an older
// agent put there is replaced by one atomic update; one of another layout goes once they are attached. It may be called again at any time, and concurrently for different
// links. Programs stay when the agent ends, and end with the link. A link that is in a pod's network namespace is that of the pod with
// the address, which has been Put before; what has another pod's is dropped there.
func (d *Datapath) AttachLink(role Role, index int, pod ...netip.Addr) error {
	var class uint32
	var err error
	if role.inPod() && len(pod) > 0 {
		if class, err = d.Pods.numberOf(pod[0]); err != nil {
			return fmt.Errorf("attach to %s %d: %w", role, index, err)
		}
	}
	for _, p := range d.programs[role] {
		if d.byTCX(role) {
			err = d.attachTCX(p, index)
		} else {
			err = attachFilter(p, index, class)
		}
		if err != nil {
			return fmt.Errorf("attach %s to %s %d: %w", p.name, role, index, err)
		}
	}
	if d.byTCX(role) {
		return d.dropLink("", index)
	}
	return nil // the kernel has replaced the filters of any layout
}

// LinkAttached reports whether a link of the calling thread's network namespace has the programs of this agent.
func (d *Datapath) LinkAttached(role Role, index int) (bool, error) {
	for _, p := range d.programs[role] {
		attached := filterAttached
		if d.byTCX(role) {
			attached = d.tcxAttached
		}
		if ok, err := attached(p, index); err != nil || !ok {
			if err != nil {
				err = fmt.Errorf("look for %s on %s %d: %w", p.name, role, index, err)
			}
			return false, err
		}
	}
	return true, nil
}

// DetachLink takes the programs of a role off a link of the calling thread's network namespace. It is no error when
// they, or the link, are not there.
func (d *Datapath) DetachLink(role Role, index int) error {
	for _, p := range d.programs[role] {
		detach := detachFilter
		if d.byTCX(role) {
			detach = d.detachTCX
		}
		if err := detach(p, index); err != nil {
			return fmt.Errorf("detach %s from %s %d: %w", p.name, role, index, err)
		}
	}
	return nil
}

// byTCX says how programs of a role are attached. Putting a tcx link on or off waits until every processor has passed a
// quiet point (synchronize_rcu in tcx_entry_sync, include/net/tcx.h), 10 ms in which nobody else changes a link. That is
// nothing for the node's own links, and would be most of the time that adding a pod takes.
func (d *Datapath) byTCX(role Role) bool {
	return d.tcx && (role == Uplink || role == PoolENI || role == IPVlanParent)
}

// haveTCX probes for tcx links (6.6) with a link that does not exist.
func haveTCX(p *ebpf.Program) (bool, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: p, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return true, l.Close()
	}
	return !errors.Is(err, ebpf.ErrNotSupported), nil
}

// tcxPin is where the link is pinned.
func (d *Datapath) tcxPin(p linkProgram, index int) (string, error) {
	cookie, err := NetNSCookie()
	if err != nil {
		return "", err
	}
	return filepath.Join(d.cfg.PinDir, layoutVersion, linkDir, pinName(p.name, cookie, index)), nil
}

func (p linkProgram) tcxType() ebpf.AttachType {
	if p.egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

func (d *Datapath) attachTCX(p linkProgram, index int) error {
	pin, err := d.tcxPin(p, index)
	if err != nil {
		return err
	}
	d.linksMu.Lock()
	defer d.linksMu.Unlock()
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer old.Close()
		if on, err := tcxOn(old, index); err != nil {
			return err
		} else if on {
			return old.Update(p.program)
		}
		err = os.Remove(pin)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// First of all programs: one before it that lets a packet pass would keep it from this one.
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p.program, Attach: p.tcxType(), Anchor: link.Head()})
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// tcxOn reports whether l is on the link with that index: it is on none (0) once its link is gone or has moved to
// another network namespace.
func tcxOn(l link.Link, index int) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	have := info.TCX()
	return have != nil && int(have.Ifindex) == index, nil
}

func (d *Datapath) tcxAttached(p linkProgram, index int) (bool, error) {
	pin, err := d.tcxPin(p, index)
	if err != nil {
		return false, err
	}
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	if on, err := tcxOn(l, index); err != nil || !on {
		return false, err
	}
	have, err := l.Info()
	return err == nil && have.Program == p.id, err
}

func (d *Datapath) detachTCX(p linkProgram, index int) error {
	if err := d.dropLink(p.name, index); err != nil {
		return err
	}
	pin, err := d.tcxPin(p, index)
	if err != nil {
		return err
	}
	d.linksMu.Lock()
	defer d.linksMu.Unlock()
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	// Removing the pin would do, but some time later.
	if err := l.Detach(); err != nil {
		return err
	}
	return os.Remove(pin)
}

// SweepLinks removes what is left of programs whose link is gone, as an ENI often is before DetachLink. What cannot be
// looked at, such as somebody else's file, is named in the error and keeps nothing else from being removed.
func (d *Datapath) SweepLinks() error {
	if !d.tcx {
		return nil
	}
	others, err := d.otherLayouts()
	errs := []error{err}
	for _, layout := range append(others, filepath.Join(d.cfg.PinDir, layoutVersion)) {
		errs = append(errs, d.sweep(filepath.Join(layout, linkDir)))
	}
	none := func([]string) []string { return nil }
	return errors.Join(append(errs, d.dropOthers(none))...)
}

func (d *Datapath) sweep(dir string) error {
	d.linksMu.Lock()
	defer d.linksMu.Unlock()
	names, err := pinNames(dir)
	errs := []error{err}
	for _, name := range slices.DeleteFunc(names, func(name string) bool { return !isLinkPin(name) }) {
		if err := removeDefunct(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the pin %s of a link that is gone: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func removeDefunct(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	if defunct, err := tcxOn(l, 0); err != nil || !defunct {
		return err
	}
	return os.Remove(pin)
}
