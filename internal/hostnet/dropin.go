package hostnet

import (
	"path"
	"slices"
	"strings"
)

// Managers are the programs on a node that would configure, or clean, interfaces and rules by themselves. What netplan and
// cloud-init write is carried out by one of these.
type Managers struct{ Networkd, NetworkManager bool }

// Paths of our drop-ins, below the root of the node's file system. All are in /run: they are gone after a reboot, as the
// links are.
const (
	networkDir     = "run/systemd/network"
	networkPrefix  = "05-nearpath-" // before netplan's 10-netplan-
	networkdConf   = "run/systemd/networkd.conf.d/nearpath.conf"
	networkManConf = "run/NetworkManager/conf.d/nearpath.conf"
	byUs           = "# Written by nearpath.\n"
)

// DropIns are the files, by path below the root, that keep the managers from the interfaces with the MAC addresses, and
// from others' rules and routes (systemd.network(5), systemd.link(5), networkd.conf(5), NetworkManager.conf(5)).
//
// Interfaces are matched by MACAddress alone: a key that an old systemd does not know is left out by it, and a match
// without keys is for every interface. So the companion and other slaves are matched as well, which is meant.
func DropIns(macs []string, m Managers) map[string]string {
	files := map[string]string{}
	macs = slices.Compact(slices.Sorted(slices.Values(macs)))
	if m.Networkd {
		// Without these it deletes, at its start, every rule and route that it has not made.
		files[networkdConf] = byUs + "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"
		for _, mac := range macs {
			name := path.Join(networkDir, networkPrefix+strings.ReplaceAll(mac, ":", ""))
			match := byUs + "[Match]\nMACAddress=" + mac + "\n\n[Link]\n"
			files[name+".network"] = match + "Unmanaged=yes\n"
			files[name+".link"] = match + "NamePolicy=keep\nMACAddressPolicy=none\n" // udev's
		}
	}
	if m.NetworkManager && len(macs) > 0 {
		list := "mac:" + strings.Join(macs, ";mac:")
		// The key is added to what an administrator has there, and the section is for one who sets that key after us.
		files[networkManConf] = byUs + "[keyfile]\nunmanaged-devices+=" + list + "\n\n[device-nearpath]\nmatch-device=" + list + "\nmanaged=0\n"
	}
	return files
}
