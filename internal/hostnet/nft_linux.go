package hostnet

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A natObjects is the content of our table: what SetNAT makes, or what the kernel has.
type natObjects struct {
	chains []*nftables.Chain
	sets   []natSet
	rules  []*nftables.Rule // in order within a chain
}

type natSet struct {
	*nftables.Set
	elements []nftables.SetElement
}

func ourTable() *nftables.Table {
	return &nftables.Table{Name: natTable, Family: nftables.TableFamilyINet}
}

// Names of our chains, and the prefixes of our sets' names; the family's number follows.
const (
	chainOutside, chainMasquerade = "outside", "masquerade"
	setPods, setDirect            = "pods", "direct"
)

// objects are what n is for the kernel. They correspond to NAT.String.
func (n NAT) objects() natObjects {
	accept := nftables.ChainPolicyAccept
	outside := &nftables.Chain{
		Name: chainOutside, Table: ourTable(), Type: nftables.ChainTypeFilter, Policy: &accept,
		Hooknum: nftables.ChainHookPrerouting, Priority: new(*nftables.ChainPriorityNATDest + 1),
	}
	masquerade := &nftables.Chain{
		Name: chainMasquerade, Table: ourTable(), Type: nftables.ChainTypeNAT, Policy: &accept,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
	o := natObjects{chains: []*nftables.Chain{outside, masquerade}}
	for _, f := range n.families() {
		pods := o.addSet(setPods, f, of(f, n.Pods))
		direct := o.addSet(setDirect, f, of(f, n.Direct))
		o.rules = append(o.rules, &nftables.Rule{Table: ourTable(), Chain: outside, Exprs: marking(f, pods, direct)})
	}
	for _, name := range n.Uplinks {
		o.rules = append(o.rules, &nftables.Rule{Table: ourTable(), Chain: masquerade, Exprs: masquerading(name)})
	}
	return o
}

// addSet numbers the sets: rules of the same transaction refer to them by number.
func (o *natObjects) addSet(name string, f Family, prefixes []netip.Prefix) *nftables.Set {
	key := map[Family]nftables.SetDatatype{IPv4: nftables.TypeIPAddr, IPv6: nftables.TypeIP6Addr}[f]
	set := &nftables.Set{Table: ourTable(), ID: uint32(len(o.sets) + 1), Name: fmt.Sprint(name, int(f)), KeyType: key, Interval: true}
	o.sets = append(o.sets, natSet{set, intervals(prefixes)})
	return set
}

// intervals are the first address of each prefix and the first one after it. What reaches to the last address of all has
// no end.
func intervals(prefixes []netip.Prefix) (elements []nftables.SetElement) {
	for _, p := range prefixes {
		elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := after(p); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// after is the first address after the prefix, the zero address if there is none.
func after(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(last); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

// marking is the rule that gives OutsideMark.
func marking(f Family, pods, direct *nftables.Set) []expr.Any {
	proto, length, saddr, daddr := byte(unix.NFPROTO_IPV4), uint32(4), uint32(12), uint32(16)
	if f == IPv6 {
		proto, length, saddr, daddr = unix.NFPROTO_IPV6, 16, 8, 24
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(LinkGroup)},
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: saddr, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: pods.Name, SetID: pods.ID},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: daddr, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: direct.Name, SetID: direct.ID, Invert: true},
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}}, // IP_CT_DIR_ORIGINAL
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		markBits(^uint32(OutsideMark), OutsideMark),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// masquerading is the rule that translates what was marked and leaves by the uplink.
func masquerading(uplink string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		markBits(OutsideMark, 0),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(OutsideMark)},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifName(uplink)},
		&expr.Masq{FullyRandom: true},
	}
}

// markBits is register 1 = register 1 & mask ^ xor.
func markBits(mask, xor uint32) expr.Any {
	order := binaryutil.NativeEndian
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: order.PutUint32(mask), Xor: order.PutUint32(xor)}
}

// ifName is a name as the kernel compares it: all of IFNAMSIZ.
func ifName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// setNAT replaces the table in one transaction: no packet finds it half made, and connections stay translated.
func setNAT(n NAT) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	o := n.objects()
	conn.AddTable(ourTable()) // for the deletion to find one
	conn.DelTable(ourTable())
	conn.AddTable(ourTable())
	for _, s := range o.sets {
		if err := conn.AddSet(s.Set, s.elements); err != nil {
			return err
		}
	}
	for _, c := range o.chains {
		conn.AddChain(c)
	}
	for _, r := range o.rules {
		conn.AddRule(r)
	}
	return conn.Flush()
}

func deleteNAT() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(ourTable())
	return ignore(conn.Flush(), unix.ENOENT)
}
