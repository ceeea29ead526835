"""Monitoring from Python: a configuration of ones own, a callback, and a manager."""

from __future__ import annotations

from typing import Any

from project import project

from evertrain.compat import RetrainingConfig, start_retraining_monitoring


def told(model_name: str, status: str, duration: float, **more: Any) -> None:
    """Print what became of a training."""
    print(f"{model_name}: {status} after {duration:.2f} s{', ' + str(more['error']) if status == 'failed' else ''}")


def main() -> None:
    """Watch the flowers alone, train them once by hand, and stop."""
    config = RetrainingConfig(
        model_name="iris",
        check_interval=600,
        min_data_size=50,
        max_model_age_hours=12,
        performance_threshold=0.03,
        notification_callback=told,
    )
    manager = start_retraining_monitoring({"iris": config}, project)
    try:
        print(manager.trigger("iris")["message"])
    finally:
        manager.stop()
        project.close()


if __name__ == "__main__":
    main()
