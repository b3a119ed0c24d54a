package autopath

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nearpath/nearpath/autopath"
)

const (
	// pageSize keeps the pods decoded at one time to a few MB.
	pageSize = 500
	// living leaves out what will never ask again. The API server sends their end as a deletion.
	living = "status.phase!=Succeeded,status.phase!=Failed"
	// silence is how long a watch may bring nothing: bookmarks come every minute.
	silence = 3 * time.Minute
	// watches end after minWatch to twice that, so that API servers can balance them.
	minWatch = 5 * time.Minute
	// connecting is how long the index is taken for fresh between one watch and the next.
	connecting = 2 * time.Second
	// shortest is how long a watch lasts that works, unless it brings something: one that is closed at once, again and
	// again, is as good as none.
	shortest = time.Second
	minRetry = 500 * time.Millisecond
	maxRetry = 30 * time.Second
)

// podAPI is what a follower needs of the Kubernetes API.
type podAPI interface {
	List(context.Context, metav1.ListOptions) (*corev1.PodList, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// A follower keeps an index in step with the API: it lists the pods page by page and follows their changes, and keeps
// of each what the index does, where an informer would keep an object.
//
// It knows nobody's search while it does not hear from the API: addresses may have changed hands meanwhile.
//
// It is a task: Run once, Ready is closed when all pods have been listed once.
type follower struct {
	api     podAPI
	cluster autopath.Cluster
	pods    prometheus.Gauge

	index atomic.Pointer[index]
	fresh atomic.Bool // whether the index is what the API says
	ready chan struct{}
}

func newFollower(api podAPI, c autopath.Cluster, pods prometheus.Gauge) *follower {
	f := &follower{api: api, cluster: c, pods: pods, ready: make(chan struct{})}
	f.index.Store(newIndex(c))
	return f
}

// Ready is closed when all pods have been listed once.
func (f *follower) Ready() <-chan struct{} { return f.ready }

func (f *follower) String() string { return "pod index" }

// Scope implements autopath.Scopes.
func (f *follower) Scope(_ context.Context, client netip.Addr) (autopath.Scope, bool) {
	if !f.fresh.Load() {
		return autopath.Scope{}, false
	}
	return f.index.Load().scope(client, time.Now())
}

// Run follows until ctx ends, and returns nil then.
func (f *follower) Run(ctx context.Context) error {
	retry := minRetry
	version := "" // to watch from, "" to list
	for ctx.Err() == nil {
		next, worked, err := f.round(ctx, version)
		if version = next; worked {
			retry = minRetry
		}
		if err == nil {
			continue
		}
		f.fresh.Store(false)
		if ctx.Err() != nil {
			break
		}
		log.Warningf("Following pods, again in %v at most: %v", retry, err)
		select {
		case <-ctx.Done():
		case <-time.After(retry/2 + rand.N(retry/2)):
		}
		retry = min(2*retry, maxRetry)
	}
	return nil
}

// round lists, or watches until the watch ends. It returns where to go on from, and whether a watch worked: a list alone
// does not end a series of failures, since its version may be too old for every watch.
func (f *follower) round(ctx context.Context, version string) (next string, worked bool, err error) {
	if version == "" {
		next, err = f.list(ctx)
		return next, false, err
	}
	next, worked, err = f.watch(ctx, version)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		next = ""
	}
	return next, worked, err
}

// list reads all pods into a new index. Nothing of the old one serves as truth from here on.
func (f *follower) list(ctx context.Context) (version string, err error) {
	f.fresh.Store(false)
	x := newIndex(f.cluster)
	options := metav1.ListOptions{FieldSelector: living, Limit: pageSize}
	for {
		page, err := f.api.List(ctx, options)
		if err != nil {
			return "", fmt.Errorf("list pods: %w", err)
		}
		for i := range page.Items {
			f.put(x, &page.Items[i])
		}
		if options.Continue = page.Continue; options.Continue == "" {
			version = page.ResourceVersion
			break
		}
	}
	f.index.Store(x)
	f.pods.Set(float64(x.pods()))
	f.fresh.Store(true)
	select {
	case <-f.ready:
	default:
		close(f.ready)
	}
	return version, nil
}

func (f *follower) put(x *index, in *corev1.Pod) {
	if err := x.put(podFrom(in)); err != nil {
		log.Warningf("Pod %s/%s is not searched for: %v", in.Namespace, in.Name, err)
	}
}

// watch follows changes from a version on. It returns the last one it saw, whether the watch worked for a time, and an
// error unless it also ended as it should.
func (f *follower) watch(ctx context.Context, version string) (last string, worked bool, err error) {
	late := time.AfterFunc(connecting, func() { f.fresh.Store(false) })
	defer late.Stop()
	seconds := int64((minWatch + rand.N(minWatch)) / time.Second)
	w, err := f.api.Watch(ctx, metav1.ListOptions{
		FieldSelector:       living,
		ResourceVersion:     version,
		AllowWatchBookmarks: true,
		TimeoutSeconds:      &seconds,
	})
	if err != nil {
		return version, false, fmt.Errorf("watch pods: %w", err)
	}
	late.Stop()
	defer w.Stop()
	started := time.Now()
	last, heard, err := f.follow(ctx, w, version)
	worked = heard || time.Since(started) >= shortest
	if err == nil && !worked {
		err = errClosed
	}
	return last, worked, err
}

// follow applies what a watch brings until it ends, and returns whether it brought anything.
func (f *follower) follow(ctx context.Context, w watch.Interface, version string) (last string, heard bool, err error) {
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return version, heard, ctx.Err()
		case <-quiet.C:
			return version, heard, fmt.Errorf("watch pods: nothing came for %v, not even a bookmark", silence)
		case event, open := <-w.ResultChan():
			if !open {
				return version, heard, nil
			}
			if version, err = f.apply(event, version); err != nil {
				return version, heard, err
			}
			heard = true
			quiet.Reset(silence)
		}
	}
}

var (
	errNotPod = errors.New("watch pods: an event without a pod")
	errClosed = errors.New("watch pods: the API closed the watch at once")
)

// apply takes one event, and with it the index to be fresh: what came before it has been applied.
func (f *follower) apply(event watch.Event, version string) (string, error) {
	if event.Type == watch.Error {
		err := apierrors.FromObject(event.Object)
		if status, ok := err.(apierrors.APIStatus); ok && status.Status().Code == http.StatusGone {
			return "", err
		}
		return version, fmt.Errorf("watch pods: %w", err)
	}
	in, ok := event.Object.(*corev1.Pod)
	if !ok {
		return "", errNotPod
	}
	x := f.index.Load()
	switch event.Type {
	case watch.Added, watch.Modified:
		f.put(x, in)
	case watch.Deleted:
		x.delete(string(in.UID))
	}
	f.pods.Set(float64(x.pods()))
	f.fresh.Store(true)
	return in.ResourceVersion, nil
}
