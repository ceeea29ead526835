"""Lines that the five documents print, by document and block, as `test_seeds.py` runs them.

Facts of those documents, not code of this project: they stay as they are printed.
"""

# fmt: off

PRINTED: dict[tuple[int, int], str] = {
    (1, 0): '''\
# .env or ops.env
ENABLE_AUTOMATED_RETRAINING=true
''',
    (1, 1): '''\
from app.services.ai import AutomatedRetrainingService

retraining = container.optional_ai.automated_retraining

# Weekly retraining (Wednesdays at 3 AM)
retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="weekly",
    schedule_day=2,  # 0=Monday, 6=Sunday
    schedule_time="03:00",
    min_samples=100
)

# Drift-triggered retraining
retraining.add_job(
    model_type="disease",
    schedule_type="on_drift",
    drift_threshold=0.15,  # Retrain if accuracy drops >15%
    min_samples=50
)
''',
    (1, 2): '''\
# Daily retraining at 2 AM
job_id = retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="daily",
    schedule_time="02:00",
    min_samples=100
)
print(f"Scheduled job {job_id}")
''',
    (1, 3): '''\
result = retraining.retrain_model(
    model_type="climate_optimizer",
    force=True  # Retrain even if no drift detected
)

print(f"Retrained {result.model_type}: v{result.old_version} → v{result.new_version}")
print(f"Accuracy: {result.old_metrics['accuracy']:.2%} → {result.new_metrics['accuracy']:.2%}")
print(f"Improvement: {result.improvement:.1f}%")
print(f"Training time: {result.training_duration:.1f}s")
''',
    (1, 4): '''\
jobs = retraining.get_retraining_schedule()

for job in jobs:
    print(f"[{job.job_id}] {job.model_type}: {job.schedule_type}")
    print(f"  Last run: {job.last_run}")
    print(f"  Next run: {job.next_run}")
''',
    (1, 5): '''\
retraining.remove_job(job_id=5)
print("Retraining job removed")
''',
    (1, 6): '''\
current_time = datetime.now()

for job in scheduled_jobs:
    if job.next_run <= current_time:
        # Trigger retraining
        _execute_retraining_job(job)
''',
    (1, 7): '''\
for job in drift_jobs:
    # Check model drift
    drift_metrics = drift_detector.check_drift(
        model_type=job.model_type,
        recent_predictions=predictions,
        recent_actuals=actuals
    )

    if drift_metrics.accuracy_drift > job.drift_threshold:
        # Trigger retraining
        _execute_retraining_job(job)
''',
    (1, 8): '''\
# Get training samples from repository
training_data = training_data_repo.fetch_samples(
    model_type=model_type,
    min_samples=job.min_samples,
    time_range="last_90d"  # Use recent data only
)

if len(training_data) < job.min_samples:
    logger.warning(f"Insufficient samples: {len(training_data)} < {job.min_samples}")
    return  # Skip retraining
''',
    (1, 9): '''\
# Extract features from raw data
features = feature_engineer.engineer_features(
    raw_data=training_data,
    feature_set=f"{model_type}_v1"
)

X = features.feature_matrix  # (n_samples, n_features)
y = training_data['target_variable']
''',
    (1, 12): '''\
# Set old model status to "archived"
model_registry.set_model_status(
    model_type=model_type,
    version=old_version,
    status=ModelStatus.ARCHIVED
)

# Keep for potential rollback
logger.info(f"Archived {model_type} v{old_version}")
''',
    (1, 14): '''\
retraining.add_job(
    model_type="disease",
    schedule_type="daily",
    schedule_time="03:00",  # 3 AM
    min_samples=50
)
''',
    (1, 15): '''\
retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="weekly",
    schedule_day=2,  # Wednesday
    schedule_time="03:00",
    min_samples=100
)
''',
    (1, 16): '''\
retraining.add_job(
    model_type="personalized_growth",
    schedule_type="monthly",
    schedule_time="03:00",
    min_samples=200
)
''',
    (1, 17): '''\
retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="on_drift",
    drift_threshold=0.15,  # Retrain if accuracy drops >15%
    min_samples=100
)
''',
    (1, 18): '''\
def _bump_version(old_version: str, bump_type: str = "minor") -> str:
    major, minor, patch = map(int, old_version.split('.'))

    if bump_type == "major":
        return f"{major + 1}.0.0"
    elif bump_type == "minor":
        return f"{major}.{minor + 1}.0"
    else:  # patch
        return f"{major}.{minor}.{patch + 1}"
''',
    (1, 19): '''\
# Revert to previous version
old_version = model_registry.get_previous_version(model_type, current_version)

model_registry.set_model_status(model_type, current_version, ModelStatus.ARCHIVED)
model_registry.set_model_status(model_type, old_version, ModelStatus.ACTIVE)

logger.warning(f"Rolled back {model_type}: v{current_version} → v{old_version}")
''',
    (1, 20): '''\
from app.workers import ScheduledTask

@ScheduledTask(interval=3600)  # Check every hour
def check_retraining_jobs():
    """Check and execute scheduled retraining jobs"""

    retraining = app.container.optional_ai.automated_retraining

    if not retraining:
        return

    # Check all jobs
    retraining.check_and_execute_jobs()
''',
    (1, 21): '''\
@ScheduledTask(interval=86400)  # Daily
def check_model_drift():
    """Check all models for drift and trigger retraining if needed"""

    drift_detector = app.container.ai.drift_detector
    retraining = app.container.optional_ai.automated_retraining

    model_types = ["climate_optimizer", "disease", "irrigation_threshold"]

    for model_type in model_types:
        # Check drift
        metrics = drift_detector.check_drift(
            model_type=model_type,
            recent_predictions=get_recent_predictions(model_type),
            recent_actuals=get_recent_actuals(model_type)
        )

        if metrics.requires_retraining:
            logger.info(f"Drift detected in {model_type} (drift: {metrics.accuracy_drift:.2%})")

            # Trigger retraining
            result = retraining.retrain_model(model_type=model_type, force=True)

            logger.info(f"Retrained {model_type}: accuracy {result.new_metrics['accuracy']:.2%}")
''',
    (1, 22): '''\
{
  "model_type": "climate_optimizer",
  "old_version": "1.2.0",
  "new_version": "1.3.0",
  "old_metrics": {
    "accuracy": 0.87,
    "f1_score": 0.85
  },
  "new_metrics": {
    "accuracy": 0.91,
    "f1_score": 0.89
  },
  "improvement": 4.6,
  "training_samples": 1523,
  "training_duration": 45.2
}
''',
    (1, 23): '''\
{
  "jobs": [
    {
      "job_id": 1,
      "model_type": "climate_optimizer",
      "schedule_type": "weekly",
      "schedule_config": {
        "day": 2,
        "time": "03:00"
      },
      "last_run": "2026-02-12T03:00:00Z",
      "next_run": "2026-02-19T03:00:00Z"
    },
    {
      "job_id": 2,
      "model_type": "disease",
      "schedule_type": "on_drift",
      "schedule_config": {
        "drift_threshold": 0.15
      },
      "last_run": "2026-02-10T04:15:00Z",
      "next_run": null
    }
  ]
}
''',
    (1, 24): '''\
{
  "model_type": "climate_optimizer",
  "schedule_type": "weekly",
  "schedule_day": 2,
  "schedule_time": "03:00",
  "min_samples": 100
}
''',
    (1, 25): '''\
{
  "job_id": 3,
  "message": "Retraining job scheduled"
}
''',
    (1, 26): '''\
{
  "message": "Retraining job removed"
}
''',
    (1, 27): '''\
# Good default for production
retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="weekly",
    schedule_day=2,  # Wednesday
    schedule_time="03:00",
    min_samples=100
)
''',
    (1, 28): '''\
# Scheduled retraining as baseline
retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="weekly",
    schedule_day=2,
    schedule_time="03:00",
    min_samples=100
)

# Drift-triggered as safety net
retraining.add_job(
    model_type="climate_optimizer",
    schedule_type="on_drift",
    drift_threshold=0.20,  # Higher threshold to avoid duplicate retraining
    min_samples=100
)
''',
    (1, 29): '''\
@ScheduledTask(interval=604800)  # Weekly
def review_retraining_results():
    """Review model retraining outcomes"""

    results = analytics_repo.get_insights(
        type="model_retrained",
        time_range="last_7d"
    )

    for result in results:
        improvement = result.data['improvement']

        if improvement < 0:
            logger.warning(f"Model {result.data['model_type']} degraded: {improvement:.1f}%")
        elif improvement > 10:
            logger.info(f"Significant improvement in {result.data['model_type']}: {improvement:.1f}%")
''',
    (1, 30): '''\
training_data = training_data_repo.fetch_samples(
    model_type="climate_optimizer",
    time_range="last_90d"
)
print(f"Available samples: {len(training_data)}")
''',
    (1, 31): '''\
result = retraining.retrain_model(model_type="climate_optimizer")

if result.improvement < -5:
    logger.error(f"Model degradation: {result.improvement:.1f}%")

    # Rollback to previous version
    model_registry.set_model_status(
        model_type="climate_optimizer",
        version=result.new_version,
        status=ModelStatus.ARCHIVED
    )
    model_registry.set_model_status(
        model_type="climate_optimizer",
        version=result.old_version,
        status=ModelStatus.ACTIVE
    )
''',
    (2, 2): '''\
# Using CLI
python scripts/manage_retraining.py start

# Using API
curl -X POST http://localhost:8000/retraining/start
''',
    (2, 3): '''\
# Check status
python scripts/manage_retraining.py status

# View history
python scripts/manage_retraining.py history

# API endpoint
curl http://localhost:8000/retraining/status
''',
    (2, 4): '''\
{
    "iris": {
        "model_name": "iris",
        "data_path": "data/raw/iris.csv",
        "check_interval": 300,  # 5 minutes
        "min_data_size": 50,
        "max_model_age_hours": 24,
        "performance_threshold": 0.05,
        "enable_auto_retraining": True
    },
    "housing": {
        "model_name": "housing",
        "data_path": "data/raw/housing.csv",
        "check_interval": 600,  # 10 minutes
        "min_data_size": 100,
        "max_model_age_hours": 48,
        "performance_threshold": 0.03,
        "enable_auto_retraining": True
    }
}
''',
    (2, 5): '''\
# Start retraining monitoring
python scripts/manage_retraining.py start

# Stop retraining monitoring
python scripts/manage_retraining.py stop

# Start with custom data paths
python scripts/manage_retraining.py start --iris-data /path/to/iris.csv --housing-data /path/to/housing.csv
''',
    (2, 6): '''\
# Show system status
python scripts/manage_retraining.py status

# View retraining history
python scripts/manage_retraining.py history

# View history for specific model
python scripts/manage_retraining.py history --model iris

# Limit history results
python scripts/manage_retraining.py history --limit 10
''',
    (2, 7): '''\
# Manually trigger retraining
python scripts/manage_retraining.py trigger iris
python scripts/manage_retraining.py trigger housing

# Configure retraining settings
python scripts/manage_retraining.py config --model iris
''',
    (2, 8): '''\
# Start retraining system
POST /retraining/start

# Stop retraining system
POST /retraining/stop
''',
    (2, 9): '''\
# Get system status
GET /retraining/status

# Get retraining history
GET /retraining/history?model_name=iris&limit=20
''',
    (2, 10): '''\
# Trigger manual retraining
POST /retraining/trigger/{model_name}
''',
    (2, 11): '''\
import requests

# Start retraining system
response = requests.post("http://localhost:8000/retraining/start")
print(response.json())

# Check status
response = requests.get("http://localhost:8000/retraining/status")
status = response.json()
print(f"System running: {status['is_running']}")

# Trigger manual retraining
response = requests.post("http://localhost:8000/retraining/trigger/iris")
print(response.json())

# Get history
response = requests.get("http://localhost:8000/retraining/history?limit=5")
history = response.json()
for event in history['history']:
    print(f"{event['model_name']}: {event['trigger_type']} - {event['status']}")
''',
    (2, 12): '''\
# Modify data file to trigger retraining
echo "new_data" >> data/raw/iris.csv
# Retraining will be triggered automatically
''',
    (2, 13): '''\
config = RetrainingConfig(
    model_name="iris",
    max_model_age_hours=24,  # Retrain every 24 hours
    check_interval=300       # Check every 5 minutes
)
''',
    (2, 14): '''\
config = RetrainingConfig(
    model_name="iris",
    performance_threshold=0.05,  # 5% degradation threshold
    check_interval=300
)
''',
    (2, 15): '''\
python scripts/manage_retraining.py trigger iris
''',
    (2, 16): '''\
curl -X POST http://localhost:8000/retraining/trigger/iris
''',
    (2, 18): '''\
{
    "model_name": "iris",
    "trigger_type": "data_change",
    "trigger_time": "2024-01-01T12:00:00",
    "status": "success",
    "duration": 45.2,
    "data_hash": "abc123...",
    "description": "Data file modified: data/raw/iris.csv"
}
''',
    (2, 27): '''\
from src.models.retraining import RetrainingConfig, start_retraining_monitoring

# Custom configuration
configs = {
    "custom_model": RetrainingConfig(
        model_name="custom_model",
        data_path="data/custom/data.csv",
        check_interval=600,  # 10 minutes
        min_data_size=200,
        max_model_age_hours=12,
        performance_threshold=0.03,
        enable_auto_retraining=True
    )
}

# Start monitoring
manager = start_retraining_monitoring(configs)
''',
    (2, 28): '''\
def retraining_notification(model_name, status, duration, **kwargs):
    if status == "success":
        print(f"{model_name} retraining completed in {duration:.2f}s")
    else:
        print(f"{model_name} retraining failed: {kwargs.get('error')}")

# Add callback to configuration
config.notification_callback = retraining_notification
''',
    (3, 1): '''\
from scripts.automatic_retraining import AutomaticRetrainingOrchestrator
import pandas as pd
import numpy as np

# Load data
ref_data = pd.read_csv("data/trainset/train.csv")
recent_data = pd.read_csv("data/recent_data.csv")
predictions = np.random.randn(100)
actuals = np.random.randn(100)

# Create orchestrator
orchestrator = AutomaticRetrainingOrchestrator()

# Check if retraining needed
trigger = orchestrator.should_retrain(
    ref_data, recent_data, predictions, actuals,
    {'r2': 0.85, 'rmse': 0.35, 'accuracy': 0.80}
)

# Access results
if trigger.triggered:
    print(f"Type: {trigger.drift_type.value}")
    print(f"Severity: {trigger.severity}")
    print(f"Confidence: {trigger.confidence}%")
    print(f"Reason: {trigger.reason}")
''',
    (3, 6): '''\
orchestrator = AutomaticRetrainingOrchestrator(
    data_drift_threshold=0.03,       # Stricter drift detection
    performance_threshold=0.03,      # Stricter perf check
    min_samples_for_retraining=200   # Require more samples
)
''',
    (3, 10): '''\
# Check thresholds are not too high
orchestrator = AutomaticRetrainingOrchestrator(
    data_drift_threshold=0.10,  # More permissive
    performance_threshold=0.10
)

# Check you have recent data
print(f"Recent data rows: {len(recent_data)}")
print(f"Min required: 100")
''',
    (4, 0): '''\
{"type": "progress", "data": "Reading uploaded CSV..."}
{"type": "progress", "data": "Starting Prophet training..."}
{"type": "progress", "data": "LSTM epoch 1/50 - loss=0.1234"}
{"type": "result", "data": {"status": "success", "meta": {...}}}
''',
    (4, 8): '''\
# Retrain
curl -F "file=@test_upload.csv" http://localhost:8000/retrain

# Forecast
curl -H "Content-Type: application/json" -d '{"days":7,"product_id":"P001"}' http://localhost:8000/forecast
''',
}
