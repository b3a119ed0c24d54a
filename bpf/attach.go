package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const linkDir = "links"

// Attach puts the socket programs in place; those of links are AttachLink's. A hook that an older agent attached gets the
// new program by one atomic update of its link, so no socket call ever meets a hook without a program. Those of another layout
// go once all of this one are attached.
func (d *Datapath) Attach() error {
	for _, h := range d.hooks() {
		path := filepath.Join(d.cfg.PinDir, layoutVersion, linkDir, h.name)
		if err := attachCgroup(path, d.cfg.CgroupRoot, h); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, d.cfg.CgroupRoot, err)
		}
	}
	return d.dropHooks()
}

type hook struct {
	name    string
	typ     ebpf.AttachType
	program *ebpf.Program
}

func (d *Datapath) hooks() []hook {
	o := &d.objs
	all := []hook{
		{sockProgConnect4, ebpf.AttachCGroupInet4Connect, o.Connect4},
		{sockProgConnect6, ebpf.AttachCGroupInet6Connect, o.Connect6},
		{sockProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, o.Sendmsg4},
		{sockProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, o.Sendmsg6},
		{sockProgRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, o.Recvmsg4},
		{sockProgRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, o.Recvmsg6},
		{sockProgGetpeername4, ebpf.AttachCgroupInet4GetPeername, o.Getpeername4},
		{sockProgGetpeername6, ebpf.AttachCgroupInet6GetPeername, o.Getpeername6},
	}
	if d.bypass.RefuseBypass != nil {
		all = append(all, hook{bypassProgRefuseBypass, ebpf.AttachCGroupSetsockopt, d.bypass.RefuseBypass})
	}
	return all
}

func attachCgroup(pin, cgroup string, h hook) error {
	old, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return attachNew(pin, cgroup, h)
	}
	if err != nil {
		return err
	}
	defer old.Close()
	if same, err := attachedTo(old, cgroup); err != nil {
		return err
	} else if same {
		return old.Update(h.program)
	}
	// The pin is of another cgroup, or of one that is gone. Its link goes with it.
	if err := os.Remove(pin); err != nil {
		return err
	}
	return attachNew(pin, cgroup, h)
}

func attachNew(pin, cgroup string, h hook) error {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.typ, Program: h.program})
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// attachedTo reports whether l is attached to the cgroup. Its id is the inode number of its directory.
func attachedTo(l link.Link, cgroup string) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(cgroup, &stat); err != nil {
		return false, fmt.Errorf("look at cgroup %s: %w", cgroup, err)
	}
	have := info.Cgroup()
	return have != nil && have.CgroupId == stat.Ino, nil
}
