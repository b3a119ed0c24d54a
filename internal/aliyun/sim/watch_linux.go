package sim

import (
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A watcher tells which links of a namespace go, and which have a carrier.
type watcher struct {
	once sync.Once
	stop chan struct{} // ends the subscription
	done chan struct{} // closed when nothing is called any more
}

// watchLinks calls gone with the index of each link that goes and ready with that of each that changes and has a carrier,
// one at a time, until the watcher is closed.
func watchLinks(path string, gone, ready func(ifindex int)) (*watcher, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	w := &watcher{stop: make(chan struct{}), done: make(chan struct{})}
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribeWithOptions(updates, w.stop, netlink.LinkSubscribeOptions{Namespace: &ns}); err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	go func() {
		defer close(w.done)
		for u := range updates { // closed by the subscription when it ends
			switch {
			case u.Header.Type == unix.RTM_DELLINK:
				gone(u.Attrs().Index)
			case u.Attrs().RawFlags&unix.IFF_LOWER_UP != 0:
				ready(u.Attrs().Index)
			}
		}
	}()
	return w, nil
}

// close may be called more than once.
func (w *watcher) close() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}
