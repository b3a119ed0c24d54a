package hostnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// IPVlan makes the wanted ENI an ipvlan parent from now on and returns its companion when pods can be put on it. It is
// cheap for one that is a parent already. The error matches ErrNoIPVlan or ErrForeignMaster when this cannot be; nothing
// is then wanted any more. RemoveENI ends it.
func (h *Host) IPVlan(ctx context.Context, mac string) (Companion, error) {
	h.mu.Lock()
	c, done := h.companions[mac]
	e, known := h.enis[mac]
	before := slices.Contains(h.parents, mac)
	if known && !before {
		h.parents = append(h.parents, mac)
	}
	h.mu.Unlock()
	if !known {
		return Companion{}, fmt.Errorf("ipvlan on ENI %s: the ENI is not wanted", mac)
	}
	if done {
		return c, nil
	}
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		result := h.compare()
		if c, ok := result.companions[mac]; ok && result.ofParent(mac) == nil {
			return c, nil
		}
		err := result.ofParent(mac)
		if errors.Is(err, ErrNoIPVlan) || errors.Is(err, ErrForeignMaster) {
			h.unparent(mac)
		}
		if err != nil {
			return Companion{}, fmt.Errorf("ipvlan on ENI %s, slot %d: %w", mac, e.Slot, err)
		}
		if !AwaitEvent(ctx, changed, time.Second) {
			return Companion{}, fmt.Errorf("ipvlan on ENI %s: %w: %w", mac, ErrLinkAbsent, cmp.Or(context.Cause(ctx), ctx.Err()))
		}
	}
}

// SupportsIPVlan asks the running kernel, which loads its module for it. The error matches ErrNoIPVlan if it has none.
func SupportsIPVlan() error {
	// A link without a parent is refused after its kind has been found.
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(message)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(companionName(0))))
	req.AddData(kindAttr())
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	switch {
	case errors.Is(err, unix.EINVAL):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrNoIPVlan, err)
	}
	return fmt.Errorf("ask for ipvlan: %w", err)
}

// setIPVlanPort changes the port of a slave's parent. The library's LinkModify changes more than it is asked for.
func setIPVlanPort(index int, port IPVlanPort) error {
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	kind := kindAttr()
	data := kind.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_IPVLAN_MODE, nl.Uint16Attr(uint16(port.Mode)))
	data.AddRtAttr(nl.IFLA_IPVLAN_FLAG, nl.Uint16Attr(uint16(port.Flag)))
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	req.AddData(message)
	req.AddData(kind)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func kindAttr() *nl.RtAttr {
	kind := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	kind.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kindIPVlan))
	return kind
}

func (h *Host) unparent(mac string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parents = slices.DeleteFunc(h.parents, func(m string) bool { return m == mac })
	delete(h.companions, mac)
}

// ipvlan is a link that is, or is to be, in the state of the port.
func ipvlan(attrs netlink.LinkAttrs, port IPVlanPort) *netlink.IPVlan {
	return &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVlanMode(port.Mode), Flag: netlink.IPVlanFlag(port.Flag)}
}

// addCompanion adds the link that asks for no neighbours from the start.
func addCompanion(o AddCompanion) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = o.Name, o.Parent.Index
	err := netlink.LinkAdd(ipvlan(attrs, IPVlanPort{}))
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrNoIPVlan, err)
	case errors.Is(err, unix.EBUSY): // by a link that is in another namespace
		return fmt.Errorf("%w: %w", ErrForeignMaster, err)
	}
	return err
}

// kernelAddr is of scope host, or link for noAddr, and without duplicate address detection: the same address may be on the uplink.
func kernelAddr(p netip.Prefix) *netlink.Addr {
	network := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	a := &netlink.Addr{IPNet: network, Scope: unix.RT_SCOPE_HOST}
	if p.Addr() == noAddr {
		a.Scope = unix.RT_SCOPE_LINK
	}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// ParentOf is the index of the link that the link with an index is a slave of: for a companion, that of its ENI. It is 0
// when there is no link with that index.
func ParentOf(index int) (int, error) {
	l, err := netlink.LinkByIndex(index)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the parent of link %d: %w", index, err)
	}
	return l.Attrs().ParentIndex, nil
}
