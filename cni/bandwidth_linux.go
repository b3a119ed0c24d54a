package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A LinkShaper is the Shaper of this node's kernel: it needs sch_tbf, and for datapaths other than Veth ifb, act_mirred
// and cls_u32. Calls for different pods may be made at the same time, those for one pod must follow one another.
type LinkShaper struct{ host ns.NetNS }

// NewShaper opens the node's namespace; an empty path means that of the process. Close releases it.
func NewShaper(netns string) (*LinkShaper, error) {
	host, err := openHost(netns)
	if err != nil {
		return nil, err
	}
	return &LinkShaper{host}, nil
}

// Close must be called when no other call is being served.
func (s *LinkShaper) Close() error { return s.host.Close() }

// Shape brings the pod to its limits. What is so already is left alone; a limit that changes keeps what waits and its
// connections, see setBucket. With zero limits nothing of an earlier call is left, and neither links nor a namespace that
// are gone are errors.
func (s *LinkShaper) Shape(_ context.Context, pod Shaped) error {
	if err := s.with(pod, namespaces.shape); err != nil {
		return fmt.Errorf("limit %s to %d bit/s in and %d bit/s out: %w", pod.Key, pod.Limits.Ingress, pod.Limits.Egress, err)
	}
	return nil
}

// Verify names the first thing that is not as Shape leaves it.
func (s *LinkShaper) Verify(_ context.Context, pod Shaped) error {
	return s.with(pod, func(_ namespaces, ops []Op) error {
		for _, op := range ops {
			return fmt.Errorf("%s: %w", op, errAbsent)
		}
		return nil
	})
}

// with calls f with what it takes to bring the pod to its limits.
func (s *LinkShaper) with(pod Shaped, f func(namespaces, []Op) error) error {
	n := namespaces{host: s.host}
	if pod.NetNS != "" {
		netns, err := openPod(pod.NetNS, s.host)
		if err == nil {
			n.pod = netns
			defer netns.Close()
		} else if gone := isNoNamespace(err); !gone || pod.Limits != (Limits{}) {
			return err
		}
	}
	if n.pod == nil && pod.Limits != (Limits{}) {
		return errors.New("its network namespace is gone")
	}
	have, err := n.readShaping(pod)
	if err != nil {
		return fmt.Errorf("look at what limits it has: %w", err)
	}
	return f(n, planShaping(have, wantedShaping(pod)))
}

func isNoNamespace(err error) bool {
	var missing ns.NSPathNotExistErr
	var other ns.NSPathNotNSErr
	return errors.As(err, &missing) || errors.As(err, &other) || errors.Is(err, fs.ErrNotExist)
}

// readShaping reads what there is on the pod's links; those that are absent have nothing.
func (n namespaces) readShaping(pod Shaped) (shaping, error) {
	have := newShaping()
	if pod.HostLink != "" {
		if err := n.on(OnHost, func() error { return have.readRoots(OnHost, pod.HostLink) }); err != nil {
			return have, err
		}
	}
	if n.pod == nil {
		return have, nil
	}
	err := n.on(InPod, func() error {
		if err := have.readRoots(InPod, pod.PodLink, pod.SideLink, ifbIngress, ifbEgress); err != nil {
			return err
		}
		for _, link := range []string{pod.PodLink, pod.SideLink} {
			if err := have.readHooks(link); err != nil {
				return err
			}
		}
		return nil
	})
	return have, err
}

// readRoots runs on the side.
func (s shaping) readRoots(side Side, names ...string) error {
	byIndex := map[int]string{}
	for _, name := range names {
		l, err := findLink(name)
		if err != nil {
			return err
		}
		if l == nil {
			continue
		}
		byIndex[l.Attrs().Index] = name
		if name == ifbIngress || name == ifbEgress {
			s.ifbs[name] = l.Attrs().RawFlags&unix.IFF_UP != 0
		}
	}
	if len(byIndex) == 0 {
		return nil
	}
	qdiscs, err := netlinksafe.QdiscList(nil)
	if err != nil {
		return fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if name, known := byIndex[q.Attrs().LinkIndex]; known {
			s.readQdisc(device{side, name}, q)
		}
	}
	return nil
}

// readQdisc takes what is ours, and the one for hooks.
func (s shaping) readQdisc(d device, q netlink.Qdisc) {
	a := q.Attrs()
	if d.side == InPod && a.Parent == netlink.HANDLE_CLSACT {
		s.clsact[d.link] = true
	}
	major := uint16(a.Handle >> 16)
	tbf, ok := q.(*netlink.Tbf)
	if !ok || a.Parent != netlink.HANDLE_ROOT || major != handleOurs && major != handleOther {
		return
	}
	r := root{bucket: bucket{tbf.Rate, tbf.Buffer, tbf.Limit}, handle: major}
	if a.Statistics != nil && a.Statistics.Queue != nil {
		r.backlog = a.Statistics.Queue.Backlog
	}
	s.roots[d] = r
}

// findLink returns nil for a link that is absent and for no name.
func findLink(name string) (netlink.Link, error) {
	if name == "" {
		return nil, nil
	}
	l, err := netlinksafe.LinkByName(name)
	if isNoLink(err) {
		return nil, nil
	}
	return l, err
}

var hookParents = map[direction]uint32{inwards: netlink.HANDLE_MIN_INGRESS, outwards: netlink.HANDLE_MIN_EGRESS}

// readHooks runs in the pod, after readRoots.
func (s shaping) readHooks(name string) error {
	l, err := findLink(name)
	if err != nil || l == nil || !s.clsact[name] {
		return err
	}
	for dir, parent := range hookParents {
		filters, err := netlinksafe.FilterList(l, parent)
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", name, err)
		}
		for _, f := range filters {
			u32, ok := f.(*netlink.U32)
			if ok && f.Attrs().Priority == dir.priority() && len(u32.Actions) > 0 {
				if s.hooks[hook{name, dir}], err = targetOf(u32.Actions[0]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// targetOf is the name of the device that an action redirects to.
func targetOf(a netlink.Action) (string, error) {
	mirred, ok := a.(*netlink.MirredAction)
	if !ok || mirred.Ifindex == 0 { // the kernel's index of a device that is gone
		return "", nil
	}
	l, err := netlink.LinkByIndex(mirred.Ifindex)
	if isNoLink(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return l.Attrs().Name, nil
}

// shape makes the changes and stops at the first that fails.
func (n namespaces) shape(ops []Op) error {
	for _, op := range ops {
		side := InPod
		switch o := op.(type) {
		case SetBucket:
			side = o.Side
		case DeleteBucket:
			side = o.Side
		}
		if err := n.on(side, func() error { return shapeOne(op) }); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// shapeOne runs on the side of the Op.
func shapeOne(op Op) error {
	switch o := op.(type) {
	case SetUp:
		return withLink(o.Link, netlink.LinkSetUp)
	case SetBucket:
		return missingKernel(withLink(o.Link, o.set), unix.ENOENT, "sch_tbf")
	case DeleteBucket:
		return withLink(o.Link, func(l netlink.Link) error {
			return netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: rootAttrs(l, o.Handle), QdiscType: "tbf"})
		})
	case AddIFB:
		attrs := netlink.NewLinkAttrs()
		attrs.Name = o.Link
		return missingKernel(netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}), unix.EOPNOTSUPP, "ifb")
	case DeleteIFB:
		return withLink(o.Link, func(l netlink.Link) error {
			if l.Type() != "ifb" {
				return fmt.Errorf("link %s is a %s and not ours", o.Link, l.Type())
			}
			return netlink.LinkDel(l)
		})
	case AddClsact:
		return missingKernel(withLink(o.Link, addClsact), unix.ENOENT, "sch_ingress")
	case Redirect:
		return missingKernel(withLink(o.Link, o.add), unix.ENOENT, "cls_u32 and act_mirred")
	case DeleteRedirect:
		return withLink(o.Link, func(l netlink.Link) error {
			return netlink.FilterDel(&netlink.U32{FilterAttrs: redirectAttrs(l, o.dir)})
		})
	default:
		panic(fmt.Sprintf("unknown op %T", op))
	}
}

// missingKernel says what to load when the kernel does not know the kind of thing that was asked for.
func missingKernel(err error, unknown unix.Errno, modules string) error {
	if errors.Is(err, unknown) {
		return fmt.Errorf("%w: bandwidth limits need %s in the kernel: load it on the node, or remove the limit", err, modules)
	}
	return err
}

func rootAttrs(l netlink.Link, handle uint16) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(handle, 0), Parent: netlink.HANDLE_ROOT}
}

func (o SetBucket) set(l netlink.Link) error {
	q := &netlink.Tbf{QdiscAttrs: rootAttrs(l, o.Handle), Rate: o.rate, Limit: o.limit, Buffer: o.ticks}
	if o.Change {
		return netlink.QdiscChange(q)
	}
	return netlink.QdiscReplace(q)
}

// addClsact takes one that somebody else added meanwhile.
func addClsact(l netlink.Link) error {
	err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func redirectAttrs(l netlink.Link, dir direction) netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: hookParents[dir], Priority: dir.priority(), Protocol: unix.ETH_P_ALL}
}

func (o Redirect) add(l netlink.Link) error {
	to, err := netlinksafe.LinkByName(o.To)
	if err != nil {
		return err
	}
	// Without a selector the filter matches every packet.
	return netlink.FilterAdd(&netlink.U32{
		FilterAttrs: redirectAttrs(l, o.dir),
		Actions:     []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	})
}
