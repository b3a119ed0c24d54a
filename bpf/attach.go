package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

const linkDir = "links"

// Attach puts the programs in place. A hook that an older agent attached gets the new program by one atomic update of
// its link, so no socket call ever meets a hook without a program.
func (d *Datapath) Attach() error {
	for _, h := range d.hooks() {
		path := filepath.Join(d.cfg.PinDir, layoutVersion, linkDir, h.name)
		if err := attachCgroup(path, d.cfg.CgroupRoot, h); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, d.cfg.CgroupRoot, err)
		}
	}
	return nil
}

type hook struct {
	name    string
	typ     ebpf.AttachType
	program *ebpf.Program
}

func (d *Datapath) hooks() []hook {
	o := &d.objs
	return []hook{
		{sockProgConnect4, ebpf.AttachCGroupInet4Connect, o.Connect4},
		{sockProgConnect6, ebpf.AttachCGroupInet6Connect, o.Connect6},
		{sockProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, o.Sendmsg4},
		{sockProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, o.Sendmsg6},
		{sockProgRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, o.Recvmsg4},
		{sockProgRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, o.Recvmsg6},
		{sockProgGetpeername4, ebpf.AttachCgroupInet4GetPeername, o.Getpeername4},
		{sockProgGetpeername6, ebpf.AttachCgroupInet6GetPeername, o.Getpeername6},
	}
}

func attachCgroup(pin, cgroup string, h hook) (err error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		return errors.Join(l.Update(h.program), l.Close())
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err = link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.typ, Program: h.program})
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// Uninstall removes every pin below dir, of all layouts: programs detach and maps go when nobody else holds them.
// Links go first, so that no program runs on maps that are being taken away.
func Uninstall(dir string) error {
	layouts, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range layouts {
		errs = append(errs, os.RemoveAll(filepath.Join(l, linkDir)), os.RemoveAll(l))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}
