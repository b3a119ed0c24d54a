package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// spread spreads the interrupts of ENIs whose links carry frames, once for every link: what the node's administrator
// changes later stays. A failure does not keep pods from the network, and a driver may refuse (EIO: it manages its
// interrupts itself), so failures are only logged. The caller holds h.pass.
func (h *Host) spread(wanted Wanted, found Found) {
	h.spreadLinks = slices.DeleteFunc(h.spreadLinks, func(index int) bool {
		_, ok := found.link(func(l Link) bool { return l.Index == index })
		return !ok
	})
	if !wanted.SpreadIRQs || balanced(h.root) {
		return
	}
	for _, e := range wanted.ENIs {
		link, ok := found.eniLink(e)
		if !ok || !link.Running || slices.Contains(h.spreadLinks, link.Index) {
			continue
		}
		h.spreadLinks = append(h.spreadLinks, link.Index)
		if err := h.spreadLink(e.Slot, link); err != nil {
			h.log.Warn("interrupts not spread", "link", link.Name, "err", err)
		}
	}
}

func (h *Host) spreadLink(slot int, link Link) error {
	cpus, err := usableCPUs(h.root)
	if err != nil {
		return err
	}
	queues, err := readQueues(h.root, link)
	if err != nil {
		return err
	}
	var errs []error
	for _, op := range Spread(slot, queues, cpus) {
		h.log.Info("host network change", "op", op.String())
		if err := os.WriteFile(filepath.Join(h.root, op.Path), []byte(op.Value), 0o644); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// balanced says whether irqbalance runs: it makes a socket, and would undo what we do.
func balanced(root string) bool {
	sockets, _ := filepath.Glob(filepath.Join(root, "run/irqbalance/*.sock")) // fails for a bad pattern only
	return len(sockets) > 0
}

// usableCPUs are online and not set apart from the scheduler (isolcpus).
func usableCPUs(root string) ([]int, error) {
	online, err := readCPUs(root, "sys/devices/system/cpu/online", parseList)
	if err != nil {
		return nil, err
	}
	isolated, err := readCPUs(root, "sys/devices/system/cpu/isolated", parseList)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return slices.DeleteFunc(online, func(cpu int) bool { return slices.Contains(isolated, cpu) }), nil
}

func readCPUs(root, path string, parse func(string) ([]int, error)) ([]int, error) {
	raw, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return nil, err
	}
	cpus, err := parse(string(raw))
	if err != nil {
		return nil, fmt.Errorf("read /%s: %w", path, err)
	}
	return cpus, nil
}

// readQueues reads sysfs and procfs. sysfs shows the links of the namespace in which it was mounted; a link of the same
// name that is not ours has no queues for us.
func readQueues(root string, link Link) (Queues, error) {
	q := Queues{Link: link.Name}
	dir := filepath.Join(root, "sys/class/net", link.Name)
	mac, err := os.ReadFile(filepath.Join(dir, "address"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(mac)) != link.MAC {
		return q, nil
	}
	if err != nil {
		return q, err
	}
	numbers, err := irqNumbers(dir)
	if err != nil || len(numbers) == 0 {
		return q, err
	}
	for _, n := range numbers {
		irq, err := readIRQ(root, n)
		if err != nil {
			return q, err
		}
		q.IRQs = append(q.IRQs, irq)
	}
	for i := 0; ; i++ {
		cpus, err := readCPUs("", filepath.Join(dir, "queues", fmt.Sprint("tx-", i), "xps_cpus"), parseMask)
		if errors.Is(err, fs.ErrNotExist) { // after the last; for a device of one queue the read says so too
			return q, nil
		}
		if err != nil {
			return q, err
		}
		q.TX = append(q.TX, cpus)
	}
}

// irqNumbers are those of the device's message-signalled interrupts. A virtio device has none of its own but those of
// the PCI device that it is on.
func irqNumbers(dir string) (numbers []int, err error) {
	device, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(filepath.Base(device), "virtio") {
		device = filepath.Dir(device)
	}
	entries, err := os.ReadDir(filepath.Join(device, "msi_irqs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// readIRQ finds the action as the directory that the kernel makes in its name.
func readIRQ(root string, number int) (IRQ, error) {
	irq := IRQ{Number: number}
	dir := fmt.Sprintf("proc/irq/%d", number)
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		return irq, err
	}
	for _, e := range entries {
		if e.IsDir() {
			irq.Action = e.Name()
			break
		}
	}
	irq.CPUs, err = readCPUs(root, filepath.Join(dir, "smp_affinity_list"), parseList)
	return irq, err
}
