package cni

import (
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
)

// errInterfaceExists says that the container already has an interface of the name; ADD must refuse it (CNI
// specification 1.1.0, section 2, ADD).
var errInterfaceExists = errors.New("the container already has an interface of that name")

// errNodesOwn says that a container's network namespace is the node's.
var errNodesOwn = errors.New("network namespace is the node's own")

// openHost opens the node's network namespace; an empty path is that of the process.
func openHost(path string) (ns.NetNS, error) {
	open := ns.GetCurrentNS
	if path != "" {
		open = func() (ns.NetNS, error) { return ns.GetNS(path) }
	}
	host, err := open()
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	return host, nil
}

// openPod opens a container's network namespace and refuses the node's own.
func openPod(path string, host ns.NetNS) (ns.NetNS, error) {
	pod, err := ns.GetNS(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	same, err := sameFile(pod.Fd(), host.Fd())
	if err == nil && same {
		err = fmt.Errorf("%s: %w", path, errNodesOwn)
	}
	if err != nil {
		return nil, errors.Join(err, pod.Close())
	}
	return pod, nil
}

// sameFile compares namespaces by device and inode (namespaces(7)).
func sameFile(a, b uintptr) (bool, error) {
	var left, right unix.Stat_t
	if err := errors.Join(unix.Fstat(int(a), &left), unix.Fstat(int(b), &right)); err != nil {
		return false, fmt.Errorf("compare network namespaces: %w", err)
	}
	return left.Dev == right.Dev && left.Ino == right.Ino, nil
}

// inode is the number that a namespace has among those that exist now (namespaces(7)).
func inodeOf(fd uintptr) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(fd), &stat); err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	return stat.Ino, nil
}

// lives says whether the record's namespace is still at its path, or whether that cannot be told.
func (r record) lives() bool {
	inode, there, err := namespaceAt(r.NetNS)
	return err != nil || there && inode == r.Inode
}

// namespaceAt returns the inode of the namespace at a path. That there is none is no error; that it cannot be told is.
func namespaceAt(path string) (inode uint64, there bool, err error) {
	var stat unix.Stat_t
	var system unix.Statfs_t
	if err = unix.Stat(path, &stat); err == nil {
		err = unix.Statfs(path, &system)
	}
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("look for network namespace %s: %w", path, err)
	}
	return stat.Ino, system.Type == unix.NSFS_MAGIC, nil
}

// prepare makes sure that the pod has no such interface, and reads the pod's cookie and inode.
func (n namespaces) prepare(ifName string) (entry PodEntry, inode uint64, err error) {
	if inode, err = inodeOf(n.pod.Fd()); err != nil {
		return PodEntry{}, 0, err
	}
	err = n.pod.Do(func(host ns.NetNS) error {
		switch _, err := netlinksafe.LinkByName(ifName); {
		case err == nil:
			return errInterfaceExists
		case !isNoLink(err):
			return err
		}
		var err error
		entry.NetNSCookie, err = bpf.NetNSCookie()
		return err
	})
	if err != nil {
		return PodEntry{}, 0, fmt.Errorf("prepare pod namespace: %w", err)
	}
	return entry, inode, nil
}

// index reads the indices of the links that a plan has made.
func (n namespaces) index(r *record) error {
	host := r.Key.HostLink()
	if r.Datapath == IPVlan {
		host = r.Companion
	}
	read := func(link string, into *int) error {
		return withLink(link, func(l netlink.Link) error { *into = l.Attrs().Index; return nil })
	}
	err := n.on(OnHost, func() error { return read(host, &r.Link) })
	if err == nil && r.Datapath == IPVlan {
		err = n.on(InPod, func() error { return read(r.Key.IfName, &r.Slave) })
	}
	if err == nil && r.Datapath == Exclusive {
		err = n.on(InPod, func() error { return errors.Join(read(r.Key.IfName, &r.ENI), read(sideLink, &r.Side)) })
	}
	if err != nil {
		return fmt.Errorf("find the links of the pod: %w", err)
	}
	return nil
}

// identify reads what prepare has set up.
func (n namespaces) identify() (entry PodEntry, err error) {
	err = n.pod.Do(func(ns.NetNS) error {
		var err error
		entry.NetNSCookie, err = bpf.NetNSCookie()
		return err
	})
	return entry, err
}

// linkedKeys lists the attachments that have a link on the host.
func linkedKeys(host ns.NetNS) (keys []Key, err error) {
	err = host.Do(func(ns.NetNS) error {
		links, err := netlinksafe.LinkList()
		for _, l := range links {
			if k, ok := keyOf(l.Attrs().Alias); ok {
				keys = append(keys, k)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return keys, nil
}
