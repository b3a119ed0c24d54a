package cluster

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

// recheck is how often an API that is not installed is looked for, and retry how long an answer that failed waits.
const (
	recheck = time.Minute
	retry   = 5 * time.Second
)

// A watched is a kind of object that is followed.
type watched struct {
	kind   string
	object runtime.Object
	list   cache.ListerWatcher
	names  func(*Snapshot) iter.Seq[Name] // what the Snapshot holds of it
	api    schema.GroupVersionResource    // of what may not be installed
	// convert is what strips the objects; nil for what strip does of itself.
	convert func(o *stripped, obj any)
	// optional objects are not waited for.
	optional bool
	synced   atomic.Pointer[func() bool]
}

// hasSynced reports whether all objects of the kind have been listed, or there is no such kind.
func (w *watched) hasSynced() bool {
	if w.optional {
		return true
	}
	synced := w.synced.Load()
	return synced != nil && (*synced)()
}

// follow watches until ctx ends.
func (s *APISource) follow(ctx context.Context, w *watched) {
	if w.api.Resource != "" && !s.awaitAPI(ctx, w) {
		return
	}
	queue := cache.NewRealFIFOWithOptions(cache.RealFIFOOptions{
		Name: w.kind, KeyFunction: cache.MetaNamespaceKeyFunc, KnownObjects: known{w, s.store}, Transformer: s.stripper(w),
	})
	controller := cache.New(&cache.Config{
		Queue: queue, ListerWatcher: s.observed(w), ObjectType: w.object, ObjectDescription: w.kind,
		Process: s.process, WatchErrorHandlerWithContext: s.watchFailed,
	})
	synced := controller.HasSynced
	w.synced.Store(&synced)
	controller.RunWithContext(ctx)
}

// awaitAPI returns true when the API is installed, false when ctx ends before that.
func (s *APISource) awaitAPI(ctx context.Context, w *watched) bool {
	for {
		installed, err := s.installed(ctx, w.api)
		wait := recheck
		switch {
		case err != nil:
			s.log.Warn("watch failed", "kind", w.kind, "err", err)
			s.unreadable(ctx, w.kind, err)
			wait = retry
		case installed:
			return true
		default:
			if w.synced.Load() == nil {
				s.log.Info("the API is not installed, looking for it from time to time", "kind", w.kind, "version", w.api.GroupVersion())
			}
			s.readable(w.kind)
			empty := func() bool { return true }
			w.synced.Store(&empty)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

func (s *APISource) installed(ctx context.Context, api schema.GroupVersionResource) (bool, error) {
	list, err := s.client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, api.GroupVersion().String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, resource := range list.APIResources {
		if resource.Name == api.Resource {
			return true, nil
		}
	}
	return false, nil
}

func (s *APISource) watchFailed(_ context.Context, r *cache.Reflector, err error) {
	s.log.Warn("watch failed", "kind", r.TypeDescription(), "err", err)
}

// process takes what the watch has brought. There is no cache besides the Store.
func (s *APISource) process(obj any, _ bool) error {
	deltas, _ := obj.(cache.Deltas)
	for _, d := range deltas {
		object := d.Object
		if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = last.Obj
		}
		o, ok := object.(*stripped)
		switch {
		case !ok:
		case d.Type == cache.Deleted:
			s.forgive(o)
			s.store.Update(o.delete)
		case o.err != nil:
			s.refuse(o)
			if o.instead != nil {
				s.store.Update(o.instead)
			}
		default:
			s.forgive(o)
			s.store.Update(o.put)
		}
	}
	return nil
}

// refuse leaves the last good state of an object where it is, and tells whoever looks after the object: of each trouble once, as
// what changes the object may change it all the time.
func (s *APISource) refuse(o *stripped) {
	s.refused.WithLabelValues(o.kind).Inc()
	key, text := Object{Kind: o.kind, Name: Name{o.Namespace, o.Name}}, o.err.Error()
	s.mu.Lock()
	said := s.bad[key] == text
	s.bad[key] = text
	s.mu.Unlock()
	if said {
		return
	}
	s.log.Error("object refused, its last good state stays", "err", o.err)
	s.warn(Object{o.kind, Name{o.Namespace, o.Name}, string(o.UID)}, refusedReason, text+"; the node goes on with the object's last good state, if it has seen one")
}

// Refused says which Services and EndpointSlices are refused as they stand, nil if none is.
func (s *APISource) Refused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for o, text := range s.bad {
		if o.Kind == kindService || o.Kind == kindSlice {
			errs = append(errs, errors.New(text))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// forgive forgets what was wrong with an object.
func (s *APISource) forgive(o *stripped) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bad, Object{Kind: o.kind, Name: Name{o.Namespace, o.Name}})
}

// known are the objects in the Store, so that those are deleted which a new list lacks.
type known struct {
	*watched
	store *Store
}

func (k known) ListKeys() []string {
	var list []string
	for name := range k.names(k.store.Snapshot()) {
		list = append(list, strings.TrimPrefix(name.String(), "/"))
	}
	return list
}

// GetByKey returns what a deletion needs.
func (k known) GetByKey(key string) (any, bool, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, false, err
	}
	o := &stripped{kind: k.kind}
	o.Namespace, o.Name = namespace, name
	return o, true, nil
}
