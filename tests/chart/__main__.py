"""The Helm chart and the other manifests of daemonset/: rendered by a real Helm, judged by the schemas of Kubernetes.

    python3 tests/chart                 all tests; installs Helm and Python packages into $CREDLET_CACHE at first (3 min)
    python3 tests/chart TEST…           some of them, as unittest names them
    python3 tests/chart --render        writes daemonset/credlet.yaml anew
"""

import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cluster/lab")]


def main() -> None:
    import build
    import cache

    python = cache.PYTHON / "bin/python3"
    if pathlib.Path(sys.prefix) != cache.PYTHON:
        build.install_packages()
        build.build_helm()
        build.install_python_packages()
        os.execv(python, [python, HERE, *sys.argv[1:]])
    if sys.argv[1:] == ["--render"]:
        import chart

        chart.PLAIN.write_text(chart.render_plain())
        return
    os.chdir(HERE)
    arguments = sys.argv[1:] or ["discover", "--start-directory", str(HERE), "--pattern", "test_*.py"]
    unittest.main(module=None, argv=["tests/chart", *arguments], verbosity=2)


main()
