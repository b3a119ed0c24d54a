package hostnet

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func writes(ops []Write) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

func cpusTo(n int) (cpus []int) {
	for i := range n {
		cpus = append(cpus, i)
	}
	return cpus
}

// virtio is a device with two queues, as its driver leaves it.
func virtio() Queues {
	return Queues{
		Link: "eth1",
		IRQs: []IRQ{
			{40, "virtio1-config", cpusTo(8)},
			{41, "virtio1-input.0", []int{0}}, {42, "virtio1-output.0", cpusTo(8)},
			{43, "virtio1-input.1", []int{0}}, {44, "virtio1-output.1", cpusTo(8)},
		},
		TX: [][]int{cpusTo(8), cpusTo(8)},
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		name string
		slot int
		q    Queues
		cpus []int
		want string
	}{
		{"first ENI", 1, virtio(), cpusTo(8), `echo 0 > /proc/irq/42/smp_affinity_list
echo 4 > /proc/irq/43/smp_affinity_list
echo 4 > /proc/irq/44/smp_affinity_list
echo 0000000f > /sys/class/net/eth1/queues/tx-0/xps_cpus
echo 000000f0 > /sys/class/net/eth1/queues/tx-1/xps_cpus
`},
		{"later ENI, some CPUs offline", 3, virtio(), []int{0, 2, 40, 63}, `echo 40 > /proc/irq/41/smp_affinity_list
echo 40 > /proc/irq/42/smp_affinity_list
echo 0 > /proc/irq/44/smp_affinity_list
echo 80000100,00000000 > /sys/class/net/eth1/queues/tx-0/xps_cpus
echo 00000005 > /sys/class/net/eth1/queues/tx-1/xps_cpus
`},
		{"more queues than CPUs", 1, virtio(), []int{1}, `echo 1 > /proc/irq/41/smp_affinity_list
echo 1 > /proc/irq/42/smp_affinity_list
echo 1 > /proc/irq/43/smp_affinity_list
echo 1 > /proc/irq/44/smp_affinity_list
echo 00000002 > /sys/class/net/eth1/queues/tx-0/xps_cpus
echo 00000002 > /sys/class/net/eth1/queues/tx-1/xps_cpus
`},
		{"no interrupts", 1, Queues{Link: "veth1", TX: [][]int{nil, nil}}, cpusTo(2), ""},
		{"no CPUs", 1, virtio(), nil, ""},
	} {
		if diff := cmp.Diff(c.want, writes(Spread(c.slot, c.q, c.cpus))); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestQueueOf(t *testing.T) {
	for action, want := range map[string]int{
		"virtio1-input.0": 0, "virtio12-output.3": 3, "eth1-TxRx-15": 15, "mlx5_comp2@pci:0000:00:06.0": 2, "eth1": 0,
		"virtio1-config": -1, "ena-mgmnt@pci:0000:00:05.0": -1, "": -1, "99999999999999999999": -1,
	} {
		got, ok := queueOf(action, "eth1")
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %d, %t", action, got, ok)
		}
	}
}

// Whatever the numbers: every CPU sends by one queue, no CPU has two queues more than another, what is one queue's is
// together, and the ENIs of as many slots as there are CPUs start at different ones.
func TestSpreadIsEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cpus := slices.Sorted(slices.Values(rapid.SliceOfNDistinct(rapid.IntRange(0, 200), 1, 40, rapid.ID[int]).Draw(t, "cpus")))
		queues, slot := rapid.IntRange(1, 40).Draw(t, "queues"), rapid.IntRange(1, 50).Draw(t, "slot")
		interrupts, senders := map[int]int{}, map[int]int{}
		for i := range queues {
			part := share(slot, i, queues, cpus)
			interrupts[part[0]]++
			for _, cpu := range part {
				senders[cpu]++
			}
		}
		for _, cpu := range cpus {
			if queues <= len(cpus) && senders[cpu] != 1 {
				t.Fatalf("CPU %d sends by %d queues", cpu, senders[cpu])
			}
			if least := queues / len(cpus); interrupts[cpu] < least || interrupts[cpu] > least+1 {
				t.Fatalf("CPU %d has %d of %d queues", cpu, interrupts[cpu], queues)
			}
		}
		other := rapid.IntRange(slot+1, slot+len(cpus)).Draw(t, "other slot")
		if same := share(slot, 0, queues, cpus)[0] == share(other, 0, queues, cpus)[0]; same != (other == slot+len(cpus)) {
			t.Fatalf("slots %d and %d start at one CPU: %t", slot, other, same)
		}
	})
}

// A machine is a tree of files as sysfs and procfs have them.
type machine string

func (m machine) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(string(m), path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (m machine) read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(string(m), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine(t.TempDir())
	m.write(t, "sys/devices/system/cpu/online", "0-4\n")
	m.write(t, "sys/devices/system/cpu/isolated", "3\n")
	pci := "sys/devices/pci0000:00/0000:00:05.0"
	net := pci + "/virtio1/net/eth1"
	m.write(t, net+"/address", "00:16:3e:00:00:02\n")
	for i := range 2 {
		m.write(t, net+fmt.Sprintf("/queues/tx-%d/xps_cpus", i), "00000000\n")
	}
	for n, action := range map[int]string{40: "virtio1-config", 41: "virtio1-input.0", 42: "virtio1-input.1"} {
		m.write(t, fmt.Sprintf("%s/msi_irqs/%d", pci, n), "msix\n")
		m.write(t, fmt.Sprintf("proc/irq/%d/smp_affinity_list", n), "0-4\n")
		if err := os.Mkdir(filepath.Join(string(m), fmt.Sprintf("proc/irq/%d/%s", n, action)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		net + "/device": "../../../virtio1", "sys/class/net/eth1": "../../devices/pci0000:00/0000:00:05.0/virtio1/net/eth1",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(string(m), link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(string(m), link)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// dump is what Spread may have changed.
func (m machine) dump(t *testing.T) (out string) {
	t.Helper()
	for _, path := range []string{"proc/irq/40/smp_affinity_list", "proc/irq/41/smp_affinity_list", "proc/irq/42/smp_affinity_list",
		"sys/class/net/eth1/queues/tx-0/xps_cpus", "sys/class/net/eth1/queues/tx-1/xps_cpus"} {
		out += strings.TrimSpace(m.read(t, path)) + " "
	}
	return out
}

func TestInterruptsAreSpreadOnce(t *testing.T) {
	const untouched, spread = "0-4 0-4 0-4 00000000 00000000 ", "0-4 1 4 00000006 00000011 "
	wanted := Wanted{SpreadIRQs: true, ENIs: []ENI{{MAC: "00:16:3e:00:00:02", Slot: 2}}}
	up := Link{Index: 3, Name: "eth1", MAC: "00:16:3e:00:00:02", Up: true, Running: true}
	m := newMachine(t)
	h := &Host{root: string(m), log: slog.New(slog.DiscardHandler)}
	see := func(name, want string, wanted Wanted, links ...Link) {
		t.Helper()
		h.spread(wanted, Found{Links: links})
		if got := m.dump(t); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	down, foreign, off := up, up, wanted
	down.Running, foreign.MAC, off.SpreadIRQs = false, "00:16:3e:00:00:03", false
	see("not asked for", untouched, off, up)
	see("link down", untouched, wanted, down)
	// A link of the same name in another namespace.
	see("another's link", untouched, Wanted{SpreadIRQs: true, ENIs: []ENI{{MAC: foreign.MAC, Slot: 1}}}, foreign)
	h.spreadLinks = nil
	m.write(t, "run/irqbalance/irqbalance1.sock", "")
	see("irqbalance runs", untouched, wanted, up)
	if err := os.RemoveAll(filepath.Join(string(m), "run")); err != nil {
		t.Fatal(err)
	}
	see("link up", spread, wanted, up)
	m.write(t, "proc/irq/41/smp_affinity_list", "2")
	const changed = "0-4 2 4 00000006 00000011 "
	see("changed by hand", changed, wanted, up)
	see("link gone", changed, wanted)
	see("link back", spread, wanted, up)
}

func FuzzCPUs(f *testing.F) {
	for _, s := range []string{"", "0", "0-3,8\n", "3-0", "-", "0-99999", "f", "00000000,000000ff", ",", "1,,2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if cpus, err := parseList(text); err == nil && !slices.IsSorted(cpus) {
			t.Errorf("list %q: %v", text, cpus)
		}
		cpus, err := parseMask(text)
		if err != nil {
			return
		}
		if again, err := parseMask(formatMask(cpus)); err != nil || !slices.Equal(again, cpus) {
			t.Errorf("mask %q: %v, then %v: %v", text, cpus, again, err)
		}
	})
}
