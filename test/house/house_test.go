// Package house guards the shape of the tree: imports go down, every package says
// what it is for.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/selvedge-io/selvedge/"

// floor numbers the top folders (docs/architecture.md): a package imports lower
// floors only, and on its own floor only its own top folder. Programs are thin
// callers of the command trees, hence one above them.
var floor = map[string]int{
	"model": 0,
	"wire":  1, "storage": 1, "trust": 1,
	"head": 2, "client": 2, "lang": 2, "auth": 2,
	"edge": 3, "hub": 3, "modules": 3,
	"cli": 4,
	"cmd": 5,
}

// goFiles calls visit for each Go file of the repository.
func goFiles(t *testing.T, mode parser.Mode, visit func(name string, f *ast.File)) {
	t.Helper()
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "node_modules" || d.Name() == "testdata"):
			return fs.SkipDir
		case path.Ext(name) != ".go":
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, mode)
		if err != nil {
			return err
		}
		visit(name, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func top(p string) string { return strings.Split(p, "/")[0] }

func TestImportsGoDown(t *testing.T) {
	checked := 0
	goFiles(t, parser.ImportsOnly, func(name string, f *ast.File) {
		if strings.HasSuffix(name, "_test.go") || top(name) == "test" {
			return
		}
		from, known := floor[top(name)]
		if !known {
			t.Errorf("%s: folder %q has no floor; give it one here and in docs/architecture.md", name, top(name))
			return
		}
		checked++
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			dep, ours := strings.CutPrefix(p, modulePath)
			if ours && top(dep) != top(name) && floor[top(dep)] >= from {
				t.Errorf("%s reaches up or sideways to %s", name, dep)
			}
		}
	})
	if checked < 20 {
		t.Fatalf("saw only %d files: the walk is broken", checked)
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	docs := map[string]int{}
	goFiles(t, parser.PackageClauseOnly|parser.ParseComments, func(name string, f *ast.File) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		if docs[path.Dir(name)] += 0; f.Doc != nil {
			docs[path.Dir(name)]++
		}
	})
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		if docs[dir] != 1 {
			t.Errorf("package %s has %d doc comments, want exactly one", dir, docs[dir])
		}
	}
}
