package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxGroups is how many security groups an ENI may be in.
const maxGroups = 10

// checkPlace compares where the node is with where its pods' addresses are to come from.
func (f *Facts) checkPlace() (findings []Finding) {
	in := f.Instance.Value
	if want := f.Query.RegionID; want != "" && in.RegionID != "" && want != in.RegionID {
		findings = append(findings, Finding{
			Check: CheckRegion, Object: in.ID, Severity: Error, Result: "mismatch",
			Values: [2]string{"configured: " + want, "instance: " + in.RegionID}, Fix: "set the region to that of the instance, or leave it out",
		})
	}
	if !f.VSwitches.OK {
		return findings
	}
	zones := map[string]bool{}
	for _, v := range f.vSwitches() {
		zones[v.ZoneID] = true
		if v.VPCID != in.VPCID {
			findings = append(findings, Finding{
				Check: CheckVSwitchVPC, Object: v.ID, Severity: Error, Result: "mismatch",
				Values: [2]string{"vSwitch: " + v.VPCID, "instance: " + in.VPCID}, Fix: "use a vSwitch of the node's VPC",
			})
		}
	}
	if len(zones) > 0 && !zones[in.ZoneID] {
		findings = append(findings, Finding{
			Check: CheckZone, Object: in.ID, Severity: Error, Result: "mismatch",
			Values: [2]string{"instance: " + in.ZoneID, "vSwitches: " + listTexts(keys(zones))},
			Fix:    "add a vSwitch of the node's zone: an ENI cannot be attached across zones",
		})
	}
	return append(findings, f.missingVSwitches()...)
}

func (f *Facts) missingVSwitches() (findings []Finding) {
	for _, id := range f.wantedVSwitches() {
		if slices.ContainsFunc(f.VSwitches.Value, func(v aliyun.VSwitch) bool { return v.ID == id }) {
			continue
		}
		findings = append(findings, Finding{
			Check: CheckVSwitchMissing, Object: id, Severity: Error, Result: "not found",
			Values: [2]string{"region: " + f.Instance.Value.RegionID}, Fix: "correct or leave out the vSwitch: the region has none of this ID",
		})
	}
	return findings
}

// checkIPv6 finds what cannot give pods IPv6 addresses, if they are to have them.
func (f *Facts) checkIPv6() (findings []Finding) {
	if !f.Query.DualStack {
		return nil
	}
	if t := f.Type.Value; f.Type.OK && t.IPv6PerENI == 0 {
		findings = append(findings, Finding{
			Check: CheckInstanceTypeIPv6, Object: t.ID, Severity: Error, Result: "no IPv6",
			Values: [2]string{"IPv6 addresses per ENI: 0", "pool.stack: dual"}, Fix: "use an instance type with IPv6, or the stack ipv4",
		})
	}
	for _, v := range f.usable() {
		if !v.IPv6CIDR.IsValid() {
			findings = append(findings, Finding{
				Check: CheckVSwitchIPv6, Object: v.ID, Severity: Error, Result: "no IPv6",
				Values: [2]string{"IPv6 CIDR: none", "pool.stack: dual"}, Fix: "enable IPv6 for the VPC and the vSwitch, or use the stack ipv4",
			})
		}
	}
	return findings
}

func (f *Facts) checkGroups() (findings []Finding) {
	in := f.Instance.Value
	wanted, _ := f.wantedGroups()
	if len(wanted) > maxGroups {
		findings = append(findings, Finding{
			Check: CheckSecurityGroupCount, Object: in.ID, Severity: Error, Result: "too many",
			Values: [2]string{fmt.Sprint("security groups: ", len(wanted)), fmt.Sprint("at most: ", maxGroups)}, Fix: "an ENI can be in 10 security groups: leave some out",
		})
	}
	if !f.Groups.OK {
		return findings
	}
	byType := map[string][]string{}
	for _, id := range wanted {
		i := slices.IndexFunc(f.Groups.Value, func(g aliyun.SecurityGroup) bool { return g.ID == id })
		if i < 0 {
			findings = append(findings, Finding{
				Check: CheckSecurityGroupMissing, Object: id, Severity: Error, Result: "not found",
				Values: [2]string{"region: " + in.RegionID}, Fix: "correct or leave out the security group: the region has none of this ID",
			})
			continue
		}
		g := f.Groups.Value[i]
		byType[g.Type] = append(byType[g.Type], id)
		if g.VPCID != in.VPCID {
			findings = append(findings, Finding{
				Check: CheckSecurityGroupVPC, Object: id, Severity: Error, Result: "mismatch",
				Values: [2]string{"security group: " + g.VPCID, "instance: " + in.VPCID}, Fix: "use a security group of the node's VPC",
			})
		}
	}
	if len(byType) > 1 {
		types := keys(byType)
		findings = append(findings, Finding{
			Check: CheckSecurityGroupTypes, Object: in.ID, Severity: Warning, Result: "mixed",
			Values: [2]string{types[0] + ": " + listTexts(byType[types[0]]), types[1] + ": " + listTexts(byType[types[1]])},
			Fix:    "use security groups of one type: an ENI does not mix them",
		})
	}
	return findings
}

// checkCapacity compares the addresses that the instance type has room for with those that the vSwitches still have.
func (f *Facts) checkCapacity() []Finding {
	if !f.Type.OK {
		return nil
	}
	t := f.Type.Value
	capacity := f.capacity()
	if capacity <= 0 {
		return []Finding{{
			Check: CheckInstanceType, Object: t.ID, Severity: Error, Result: "cannot carry pods",
			Values: [2]string{fmt.Sprint("ENIs: ", t.ENIs), fmt.Sprint("addresses per ENI: ", t.AddressesPerENI)},
			Fix:    "use an instance type with two ENIs or more: the node itself has the first",
		}}
	}
	usable := f.usable()
	if !f.VSwitches.OK || !f.Held.OK || len(usable) == 0 {
		return nil
	}
	free, ids := 0, []string{}
	for _, v := range usable {
		free += v.AvailableIPs
		ids = append(ids, v.ID)
	}
	need := capacity - f.Held.Value
	finding := Finding{
		Check: CheckAddresses, Object: listTexts(ids), Severity: Warning, Result: "too few",
		Values: [2]string{fmt.Sprint("free: ", free), fmt.Sprintf("needed to fill the node: %d of %d", need, capacity)},
		Fix:    "add a vSwitch with free addresses in zone " + f.Instance.Value.ZoneID + ", or lower the pool's most ENIs",
	}
	switch {
	case free >= need:
		return nil
	case free == 0 && f.Held.Value == 0:
		finding.Severity, finding.Result = Error, "none"
	}
	return []Finding{finding}
}

// capacity is (ENIs - 1) x addresses per ENI; the node has the first ENI for itself.
func (f *Facts) capacity() int {
	enis := f.Type.Value.ENIs - 1
	if f.Query.MaxENIs > 0 {
		enis = min(enis, f.Query.MaxENIs)
	}
	return enis * f.Type.Value.AddressesPerENI
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func listTexts(texts []string) string {
	return strings.Join(slices.Sorted(slices.Values(texts)), " ")
}
