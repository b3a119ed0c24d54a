package hostnet

import (
	"maps"
	"slices"
)

const (
	forwardV4, forwardV6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
	allRPFilter          = "net/ipv4/conf/all/rp_filter"
)

func rpFilter(link string) string    { return "net/ipv4/conf/" + link + "/rp_filter" }
func acceptRA(link string) string    { return "net/ipv6/conf/" + link + "/accept_ra" }
func acceptDAD(link string) string   { return "net/ipv6/conf/" + link + "/accept_dad" }
func disableIPv6(link string) string { return "net/ipv6/conf/" + link + "/disable_ipv6" }

// sysctl leaves out what the kernel does not have, such as the IPv6 keys of a kernel without IPv6.
func (b *builder) sysctl(key, value string) {
	if have, ok := b.found.Sysctls[key]; ok && have != value {
		b.add(SetSysctl{key, value})
	}
}

// linkSysctls are the settings of an ENI's link. Reverse path filtering is loose, because a packet to a pod may come in
// on an ENI while the route back to its sender leaves by the uplink.
func linkSysctls(name string) []SetSysctl {
	v4, v6 := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	return []SetSysctl{{rpFilter(name), "2"}, {v4 + "forwarding", "1"}, {acceptRA(name), "0"}, {v6 + "forwarding", "1"}}
}

// sysctlKeys lists the keys that Build wants to know of, for the links of the wanted ENIs and the uplinks.
func sysctlKeys(wanted Wanted, found Found) []string {
	keys := map[string]struct{}{forwardV4: {}, forwardV6: {}, allRPFilter: {}}
	for _, l := range found.uplinks() {
		keys[rpFilter(l.Name)], keys[acceptRA(l.Name)] = struct{}{}, struct{}{}
	}
	for _, l := range found.Links {
		if _, ok := l.companionSlot(); ok {
			for _, s := range linkSysctls(l.Name) {
				keys[s.Key] = struct{}{}
			}
		}
	}
	for _, l := range found.Links {
		if slices.ContainsFunc(wanted.ENIs, l.isOf) {
			keys[disableIPv6(l.Name)], keys[acceptDAD(l.Name)] = struct{}{}, struct{}{}
			for _, s := range linkSysctls(l.Name) {
				keys[s.Key] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}
