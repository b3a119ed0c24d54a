package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// CheckEgress is the Check of every finding of Egress; its Object is the ID of a vSwitch.
const CheckEgress = "egress"

// Results of Egress.
const (
	ResultReady            = "ready"
	ResultNoRoute          = "no route"
	ResultNoSNATEntry      = "no SNAT entry"
	ResultSNATNotAvailable = "SNAT not available"
	ResultUnknown          = "unknown"
)

const noneFix = "set egress.mode to none if pods are not to reach the Internet"

// Egress says for each vSwitch of pods in the node's zone whether IPv4 packets from it find their way out of the VPC. For
// that its route table (the custom one it is bound to, else the system one) needs an available default route to a NAT
// gateway, and that gateway available SNAT entries that cover the vSwitch; of several next hops, each. A default route that leads elsewhere, such as
// to a transit router, is unknown: what is behind it is not ours to see. In ModeNodeSNAT it says so for the node's own
// vSwitch, and a public address of the node will do.
//
// There is one finding for each vSwitch, also when all is well, and none in ModeNone.
func Egress(f Facts) []Finding {
	switch f.Query.Egress {
	case ModeNone:
		return nil
	case ModeNodeSNAT:
		return f.nodeEgress()
	}
	if !f.VSwitches.OK {
		return unknownVSwitches(f.wantedVSwitches(), f.VSwitches.Reason)
	}
	vSwitches := f.usable()
	if len(vSwitches) == 0 { // Plan says why; here they are still worth a look
		vSwitches = f.vSwitches()
	}
	var findings []Finding
	for _, v := range vSwitches {
		e := f.vSwitchEgress(v)
		if public := f.Instance.Value.PublicIP; e.Severity > Unknown && public.IsValid() {
			e.Fix += fmt.Sprintf("; that the node itself reaches the Internet is due to its public address %s, which helps only the node's primary address", public)
		}
		findings = append(findings, e)
	}
	return sorted(findings)
}

func (f *Facts) nodeEgress() []Finding {
	in := f.Instance.Value
	if in.PublicIP.IsValid() {
		return []Finding{{
			Check: CheckEgress, Object: in.VSwitchID, Result: ResultReady,
			Values: [2]string{"pods leave with the node's address", "the node has the public address " + in.PublicIP.String()},
		}}
	}
	if !f.NodeVSwitch.OK || len(f.NodeVSwitch.Value) == 0 {
		return unknownVSwitches([]string{in.VSwitchID}, f.NodeVSwitch.Reason)
	}
	e := f.vSwitchEgress(f.NodeVSwitch.Value[0])
	if e.Severity > Unknown {
		e.Fix += "; or give the node a public address, as pods leave with the node's"
	}
	return []Finding{e}
}

func unknownVSwitches(ids []string, reason string) (findings []Finding) {
	for _, id := range ids {
		findings = append(findings, unknownEgress(id, "vSwitch", reason))
	}
	return sorted(findings)
}

func unknownEgress(vSwitchID, what, reason string) Finding {
	if reason == "" {
		reason = "was not read"
	}
	return Finding{
		Check: CheckEgress, Object: vSwitchID, Severity: Unknown, Result: ResultUnknown, Values: [2]string{what, reason},
		Fix: "allow the credentials " + strings.Join(egressActions, ", "),
	}
}

var egressActions = []string{
	"vpc:DescribeVSwitches", "vpc:DescribeRouteTableList", "vpc:DescribeRouteEntryList", "vpc:DescribeNatGateways",
	"vpc:DescribeSnatTableEntries",
}

func (f *Facts) vSwitchEgress(v aliyun.VSwitch) Finding {
	if !f.Routes.OK {
		return unknownEgress(v.ID, "route tables", f.Routes.Reason)
	}
	table, ok := tableOf(f.Routes.Value, v)
	if !ok {
		return unknownEgress(v.ID, "route tables", "none is bound to the vSwitch")
	}
	way := wayOut(table)
	finding := Finding{Check: CheckEgress, Object: v.ID, Values: [2]string{way.text}}
	switch {
	case way.elsewhere:
		finding.Severity, finding.Result, finding.Values[1] = Unknown, ResultUnknown, "whether that leads out is not visible from here"
		return finding
	case len(way.gateways) == 0:
		finding.Severity, finding.Result = Error, ResultNoRoute
		finding.Values[1] = fmt.Sprintf("vSwitch %s has the CIDR %s", v.ID, v.CIDR)
		finding.Fix = fmt.Sprintf("add the route 0.0.0.0/0 to a NAT gateway to route table %s, or %s", table.ID, noneFix)
		return finding
	case !f.SNAT.OK:
		return unknownEgress(v.ID, "SNAT entries", f.SNAT.Reason)
	}
	return judgeSNAT(finding, v, way.gateways, f.SNAT.Value)
}

// tableOf finds the route table of a vSwitch: the custom one that names it, the one that it names, else the VPC's own.
func tableOf(tables []aliyun.RouteTable, v aliyun.VSwitch) (aliyun.RouteTable, bool) {
	for _, match := range []func(aliyun.RouteTable) bool{
		func(t aliyun.RouteTable) bool {
			return t.Type == aliyun.RouteTableCustom && slices.Contains(t.VSwitchIDs, v.ID)
		},
		func(t aliyun.RouteTable) bool { return t.ID == v.RouteTableID },
		func(t aliyun.RouteTable) bool { return t.Type == aliyun.RouteTableSystem },
	} {
		if i := slices.IndexFunc(tables, match); i >= 0 {
			return tables[i], true
		}
	}
	return aliyun.RouteTable{}, false
}

// A way is where the default route of a table leads.
type way struct {
	gateways  []string // NAT gateways, if it leads to any
	elsewhere bool     // it leads to something else
	text      string
}

func wayOut(t aliyun.RouteTable) way {
	w := way{text: fmt.Sprintf("route table %s has no IPv4 default route", t.ID)}
	var others, broken []string
	for _, r := range t.Routes {
		if r.Destination.Bits() != 0 || !r.Destination.Addr().Is4() {
			continue
		}
		hop := r.NextHopType + " " + r.NextHopID
		switch {
		case r.Status != aliyun.StatusAvailable:
			broken = append(broken, hop+" is "+r.Status)
		case r.NextHopType == aliyun.NextHopNATGateway:
			w.gateways = append(w.gateways, r.NextHopID)
		default:
			others = append(others, hop)
		}
	}
	for _, list := range [][]string{w.gateways, others, broken} {
		slices.Sort(list)
	}
	w.elsewhere = len(w.gateways) == 0 && len(others) > 0
	switch {
	case len(w.gateways) > 0:
		w.text = fmt.Sprintf("default route of %s goes to %s", t.ID, strings.Join(w.gateways, " and "))
	case w.elsewhere:
		w.text = fmt.Sprintf("default route of %s goes to %s", t.ID, strings.Join(others, " and "))
	case len(broken) > 0:
		w.text = fmt.Sprintf("default route of %s to %s", t.ID, strings.Join(broken, " and "))
	}
	return w
}

// judgeSNAT completes the finding for a vSwitch whose default route goes to the gateways.
func judgeSNAT(finding Finding, v aliyun.VSwitch, gateways []string, entries []aliyun.SNATEntry) Finding {
	here := slices.DeleteFunc(slices.Clone(entries), func(e aliyun.SNATEntry) bool {
		return e.NATGatewayID != "" && !slices.Contains(gateways, e.NATGatewayID)
	})
	available := slices.DeleteFunc(slices.Clone(here), func(e aliyun.SNATEntry) bool { return e.Status != aliyun.StatusAvailable })
	switch {
	case translated(v, available):
		finding.Result, finding.Values[1] = ResultReady, "SNAT entry "+names(v, available)
		if bare := untranslated(v, gateways, available); len(bare) > 0 {
			finding.Severity, finding.Result = Warning, ResultSNATNotAvailable
			finding.Values[1] = fmt.Sprintf("SNAT entry %s, but vSwitch %s is not covered on NAT gateway %s, which takes a part of its connections",
				names(v, available), v.ID, strings.Join(bare, " and "))
			finding.Fix = fmt.Sprintf("add an SNAT entry for vSwitch %s (%s) to NAT gateway %s, or take the gateway out of the default route",
				v.ID, v.CIDR, strings.Join(bare, " and "))
		}
	case translated(v, here):
		finding.Severity, finding.Result = Warning, ResultSNATNotAvailable
		finding.Values[1] = "SNAT entry " + names(v, here)
		finding.Fix = fmt.Sprintf("wait until the SNAT entries of vSwitch %s are Available; if they stay as they are, look at the NAT gateway", v.ID)
	default:
		finding.Severity, finding.Result = Error, ResultNoSNATEntry
		finding.Values[1] = without(v, gateways[0], here, entries)
		finding.Fix = fmt.Sprintf("add an SNAT entry for vSwitch %s (%s) to NAT gateway %s, or %s", v.ID, v.CIDR, gateways[0], noneFix)
	}
	return finding
}

// untranslated are the gateways whose own entries do not cover the vSwitch. The default route uses all gateways at once.
func untranslated(v aliyun.VSwitch, gateways []string, entries []aliyun.SNATEntry) (bare []string) {
	for _, id := range gateways {
		own := slices.DeleteFunc(slices.Clone(entries), func(e aliyun.SNATEntry) bool { return e.NATGatewayID != "" && e.NATGatewayID != id })
		if !translated(v, own) {
			bare = append(bare, id)
		}
	}
	return bare
}

// translated reports whether the entries together cover every address of the vSwitch.
func translated(v aliyun.VSwitch, entries []aliyun.SNATEntry) bool {
	var cidrs []netip.Prefix
	for _, e := range entries {
		if e.VSwitchID == v.ID {
			return true
		}
		if e.VSwitchID == "" && e.SourceCIDR.IsValid() {
			cidrs = append(cidrs, e.SourceCIDR)
		}
	}
	return v.CIDR.IsValid() && covered(v.CIDR, cidrs)
}

// covered reports whether every address of p is in one of the prefixes.
func covered(p netip.Prefix, by []netip.Prefix) bool {
	by = slices.DeleteFunc(slices.Clone(by), func(q netip.Prefix) bool { return !q.Overlaps(p) })
	if len(by) == 0 {
		return false
	}
	if slices.ContainsFunc(by, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() }) {
		return true
	}
	low, high := halves(p) // every prefix in by is longer than p, so p has two halves
	return covered(low, by) && covered(high, by)
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	bytes := p.Masked().Addr().AsSlice()
	low = netip.PrefixFrom(p.Masked().Addr(), bits+1)
	bytes[bits/8] |= 0x80 >> (bits % 8)
	addr, _ := netip.AddrFromSlice(bytes) // as long as the address it came from
	return low, netip.PrefixFrom(addr, bits+1)
}

// touches reports whether the entry is for the vSwitch or for a part of it.
func touches(v aliyun.VSwitch, e aliyun.SNATEntry) bool {
	return e.VSwitchID == v.ID || e.VSwitchID == "" && e.SourceCIDR.IsValid() && e.SourceCIDR.Overlaps(v.CIDR)
}

// names lists the entries that matter to the vSwitch, with the states that are not Available.
func names(v aliyun.VSwitch, entries []aliyun.SNATEntry) string {
	var texts []string
	for _, e := range entries {
		if !touches(v, e) {
			continue
		}
		text := e.ID
		if e.Status != aliyun.StatusAvailable {
			text += " is " + e.Status
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

// without says what there is instead of an SNAT entry for the vSwitch.
func without(v aliyun.VSwitch, gateway string, here, all []aliyun.SNATEntry) string {
	if partly := names(v, here); partly != "" {
		return fmt.Sprintf("SNAT entry %s is for a part of vSwitch %s (%s) only", partly, v.ID, v.CIDR)
	}
	if elsewhere := names(v, all); elsewhere != "" {
		return fmt.Sprintf("SNAT entry %s for vSwitch %s is on another NAT gateway than %s", elsewhere, v.ID, gateway)
	}
	return fmt.Sprintf("NAT gateway %s has no SNAT entry for vSwitch %s (%s)", gateway, v.ID, v.CIDR)
}
